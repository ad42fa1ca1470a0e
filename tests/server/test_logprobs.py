"""Log-probs of answers whose characters are several tokens: one entry a token, with its real bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from preftilt.engines.chat import HfChatTokenizer
from preftilt.messages import Message
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from preftilt.types import Tokens
from tests.engine.test_token_bytes import BEASTS, MADE
from tests.server.serving import Running, ask, serving

pytestmark = pytest.mark.model


@dataclass(frozen=True)
class Read:
    """The vocabulary of a real tokenizer under the toy's prompts; token 0 ends an answer, the others are one behind."""

    chat: HfChatTokenizer

    @property
    def words(self) -> range:
        return range(1 + len(self.chat._tokenizer))

    def render(self, messages: Sequence[Message]) -> Tokens:
        return ToyTokenizer().render(messages)

    def encode(self, text: str) -> Tokens:
        return tuple(token + 1 for token in self.chat.encode(text))

    def encode_raw(self, text: str) -> Tokens:
        return self.encode(text)

    def decode(self, tokens: Tokens) -> str:
        return self.chat.decode(_inner(tokens))

    def pieces(self, tokens: Tokens) -> list[str]:
        return ["" if token == 0 else self.chat.pieces((token - 1,))[0] for token in tokens]

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        spelled = iter(self.chat.spell_bytes(_inner(tokens)))
        return [None if token == 0 else next(spelled) for token in tokens]


def _inner(tokens: Tokens) -> Tokens:
    return tuple(token - 1 for token in tokens if token)


@pytest.fixture(scope="module", params=MADE)
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A model that always says the beasts, token by token, and ends."""
    read = Read(HfChatTokenizer(MADE[request.param]()))
    text = (*read.encode(BEASTS), 0)

    def says(context: Tokens) -> np.ndarray:
        said = next(n for n in range(len(text)) if context[5:] == text[:n])
        logits = np.zeros(len(read.words))
        logits[text[said]] = 30.0
        return logits - np.log(np.exp(logits).sum())

    engine = ToyEngine(says)
    engine.tokenizer = read  # pyright: ignore[reportAttributeAccessIssue]
    with serving(engine) as running:
        yield running


def entries(
    server: Running, *, stream: bool, max_tokens: int
) -> tuple[str, list[Any], list[float]]:
    """The text, its entries, and the log-probs of the record."""
    wish = {"preference": "No games.", "details": True}
    said = ask(server, logprobs=True, preftilt=wish, stream=stream, max_tokens=max_tokens)
    assert said.status_code == 200, said.text
    if not stream:
        [choice], record = said.json()["choices"], said.json()["preftilt"]
        text, shown = choice["message"]["content"], choice["logprobs"]["content"]
    else:
        lines = [line.removeprefix("data: ") for line in said.text.split("\n\n")]
        chunks = [json.loads(line) for line in lines if line.startswith("{")]
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        text = "".join(part["delta"].get("content", "") for part in parts)
        shown = [entry for part in parts for entry in (part["logprobs"] or {}).get("content", [])]
        [record] = [chunk["preftilt"] for chunk in chunks if "preftilt" in chunk]
    return text, shown, record["candidates"][0]["logprobs"]["full"]


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_join_to_the_text_and_the_sum_is_the_record_s(server: Running, stream: bool) -> None:
    text, shown, logprobs = entries(server, stream=stream, max_tokens=200)
    assert text == BEASTS
    assert b"".join(bytes(entry["bytes"]) for entry in shown).decode() == text
    assert [entry["logprob"] for entry in shown] == logprobs[:-1]
    assert any(entry["token"].startswith("bytes:\\x") for entry in shown)


def test_an_answer_cut_within_a_character_has_an_entry_for_every_token(server: Running) -> None:
    _, shown, logprobs = entries(server, stream=False, max_tokens=2)
    assert [entry["logprob"] for entry in shown] == logprobs
    assert BEASTS.encode().startswith(b"".join(bytes(entry["bytes"]) for entry in shown))
