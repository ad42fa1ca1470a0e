"""What a model thought before it answered stands beside the answer's content, streamed or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preftilt.testing.toy import ToyEngine, hashed_bigrams
from tests.core.test_thoughts import Thinking
from tests.server.serving import QUESTION, WISH, Running, serving


@pytest.fixture(scope="module")
def thinking() -> Iterator[Running]:
    with serving(ToyEngine(hashed_bigrams(2), tokenizer=Thinking())) as running:
        yield running


def create(running: Running, **asked: Any) -> Any:
    with running.client() as client:
        said = client.chat.completions.create(
            **{"model": "toy", "messages": QUESTION, "seed": 3, **asked}
        )
        return list(said) if asked.get("stream") else said


@pytest.mark.parametrize("knob", [None, WISH | {"details": True}])
def test_thoughts_are_no_part_of_content_and_log_probs(thinking: Running, knob: Any) -> None:
    asked = {"logprobs": True, "extra_body": {"preftilt": knob} if knob else {}}
    said = create(thinking, **asked)
    [choice] = said.choices
    assert choice.message.content
    assert choice.message.reasoning_content.endswith("\n")
    assert "".join(one.token for one in choice.logprobs.content) == choice.message.content
    if knob:
        best = said.preftilt["candidates"][0]
        assert best["text"] == choice.message.content
        assert best["reasoning"]["text"] == choice.message.reasoning_content


@pytest.mark.parametrize("knob", [None, WISH])
def test_a_stream_is_the_answer_alone(thinking: Running, knob: Any) -> None:
    asked = {"extra_body": {"preftilt": knob} if knob else {}}
    whole = create(thinking, **asked).choices[0].message.content
    assert whole
    chunks = create(thinking, **asked, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole


def test_a_raw_completion_is_what_was_drawn(thinking: Running) -> None:
    with thinking.client() as client:
        said = client.completions.create(model="toy", prompt="maths", n=8, seed=3, max_tokens=24)
    assert any("\n" in choice.text for choice in said.choices)
    assert all(choice.text for choice in said.choices)
