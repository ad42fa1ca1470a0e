"""Any text through the server, and back unchanged: asked, answered, recorded, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.testing.toy import ToyEngine
from tests.engine.any_text import AnyText, engine_saying, saying
from tests.engine.models import byte_tokenizer
from tests.engine.texts import ODD, VISIBLE
from tests.server.serving import Running, serving

pytestmark = pytest.mark.model

TOKENIZER = AnyText(HfChatTokenizer(byte_tokenizer()))


@pytest.fixture(scope="module")
def engine() -> ToyEngine:
    return engine_saying(TOKENIZER)


@pytest.fixture(scope="module")
def server(engine: ToyEngine) -> Iterator[Running]:
    with serving(engine) as running:
        yield running


def events(said: httpx2.Response) -> list[Any]:
    """The objects of a stream, split as the standard says: at line feeds alone."""
    lines = [line for line in said.content.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


@settings(
    max_examples=4,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=VISIBLE)
@example(text=ODD)
def test_any_text_goes_in_and_comes_back(text: str, server: Running, engine: ToyEngine) -> None:
    engine.next_logprobs = saying(TOKENIZER, TOKENIZER.spelled(text))
    TOKENIZER.seen.clear()
    chat = {
        "model": "toy",
        "messages": [
            {"role": "system", "content": f"{text}s"},
            {"role": "user", "content": [{"type": "text", "text": f"{text}?"}]},
        ],
        "preftilt": {"preference": f"not {text}!", "details": True},
        "max_tokens": 512,
    }
    raw = {"model": "toy", "prompt": [text, f"{text}2"], "max_tokens": 512}
    with server.http as http:
        whole = http.post("/v1/chat/completions", json=chat).json()
        parts = events(http.post("/v1/chat/completions", json=chat | {"stream": True}))
        texts = http.post("/v1/completions", json=raw).json()
        text_parts = events(http.post("/v1/completions", json=raw | {"stream": True}))
    [choice], record = whole["choices"], whole["preftilt"]
    assert choice["message"]["content"] == record["text"] == text
    assert {one["text"] for one in record["candidates"]} == {text}
    assert record["settings"]["preferences"][0]["text"] == f"not {text}!"
    deltas = [one["delta"] for part in parts for one in part["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert [part["preftilt"]["text"] for part in parts if "preftilt" in part] == [text]
    assert [one["text"] for one in texts["choices"]] == [text, text]
    for index in range(2):
        said = [one for part in text_parts for one in part["choices"] if one["index"] == index]
        assert "".join(one["text"] for one in said) == text
    assert {f"{text}?", f"{text}s", f"not {text}!", text, f"{text}2"} <= _lines(TOKENIZER.seen)


def _lines(seen: list[str]) -> set[str]:
    """What was read, and what stands in it behind a blank line: a preference behind a system message."""
    return {*seen, *(part for one in seen for part in one.split("s\n\n", 1))}
