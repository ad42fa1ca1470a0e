"""The bundled model behind the server and the official client: the whole way, with the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preftilt.engines.open import open_engine
from tests.server.serving import QUESTION, Running, serving

pytestmark = pytest.mark.model

ASKED: dict[str, Any] = {
    "model": "demo:bon-4-l3",
    "messages": QUESTION,
    "max_tokens": 24,
    "seed": 1,
    "extra_body": {"preftilt": {"preference": "I dislike gamification.", "details": True}},
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    with serving(open_engine("demo"), model="demo") as running:
        yield running


def test_the_bundled_model_answers_with_the_knob_streaming_and_not(demo: Running) -> None:
    with demo.client() as client:
        whole = client.chat.completions.create(**ASKED)
        stream = list(client.chat.completions.create(**ASKED, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text == whole.choices[0].message.content
    assert whole.preftilt["text"].startswith(text)
    assert whole.preftilt["settings"]["search"] == {"name": "best-of-n", "n": 4}


def test_the_bundled_model_s_plain_answer_streams_piece_by_piece(demo: Running) -> None:
    asked = ASKED | {"model": "demo", "extra_body": None}
    with demo.client() as client:
        whole = client.chat.completions.create(**asked)
        pieces = [
            c.choices[0].delta.content
            for c in client.chat.completions.create(**asked, stream=True)
            if c.choices and c.choices[0].delta.content
        ]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 1
