"""A request is made into prompts once, and a long one beside the event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from preftilt.messages import Message
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from preftilt.types import Tokens
from tests.server.serving import QUESTION, Running, ask, serving


@dataclass(frozen=True)
class Rendered(ToyTokenizer):
    """The toy's tokenizer; notes the threads that rendered."""

    by: list[str] = field(default_factory=list)

    def render(self, messages: Sequence[Message]) -> Tokens:
        self.by.append(threading.current_thread().name)
        return super().render(messages)


@pytest.fixture(scope="module")
def tokenizer() -> Rendered:
    return Rendered()


@pytest.fixture(scope="module")
def server(tokenizer: Rendered) -> Iterator[Running]:
    with serving(ToyEngine(tokenizer=tokenizer)) as running:
        yield running


@pytest.fixture(autouse=True)
def forgotten(tokenizer: Rendered) -> None:
    tokenizer.by.clear()


@pytest.mark.parametrize(
    ("changes", "prompts"),
    [
        ({}, 2),
        ({"stream": True}, 2),
        ({"preftilt": {"preference": "No games.", "details": True}}, 2),
        ({"preftilt": {"preferences": ["a", "b"]}}, 4),
        ({"preftilt": None}, 1),
    ],
)
def test_every_prompt_is_made_once(
    changes: dict[str, Any], prompts: int, server: Running, tokenizer: Rendered
) -> None:
    assert ask(server, **changes).status_code == 200
    assert len(tokenizer.by) == prompts


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_request_is_prepared_beside_the_event_loop(
    stream: bool, server: Running, tokenizer: Rendered
) -> None:
    ask(server)
    [loop] = set(tokenizer.by)
    tokenizer.by.clear()
    long = [{"role": "user", "content": "How? " * 2_000}]
    for fields in ({}, {"preftilt": None}, {"preftilt": {"preference": "maths " * 1_000}}):
        messages = long if "preftilt" not in fields or fields["preftilt"] is None else QUESTION
        assert ask(server, messages=messages, stream=stream, **fields).status_code == 200
    assert loop not in tokenizer.by
