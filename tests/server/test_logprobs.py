"""Log-probs of answers whose characters are several tokens: one entry a token, with its real bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from preftilt.engines.base import ScoreRequest
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.testing.toy import ToyEngine
from preftilt.types import Tokens
from tests.engine.any_text import AnyText, engine_saying
from tests.engine.test_token_bytes import BEASTS, MADE
from tests.server.serving import Running, ask, serving

pytestmark = pytest.mark.model

SPACED = " the dance and 🦄 too"
"""Begins as a word of the SentencePiece kind is spelled, with a space that is the answer's own."""
PROMPTS = ["Once upon", "a time 🐉"]


@dataclass(frozen=True, slots=True)
class Known:
    """A server whose model always says ``text``, whose ids are ``answer``, and ends."""

    server: Running
    engine: ToyEngine
    tokenizer: AnyText
    text: str
    answer: Tokens


@pytest.fixture(scope="module", params=[(name, text) for name in MADE for text in (BEASTS, SPACED)])
def known(request: pytest.FixtureRequest) -> Iterator[Known]:
    name, text = request.param
    tokenizer = AnyText(HfChatTokenizer(MADE[name]()))
    answer = tokenizer.spelled(text)
    engine = engine_saying(tokenizer, answer)
    with serving(engine) as running:
        yield Known(running, engine, tokenizer, text, answer)


def chunks_of(said: httpx2.Response) -> list[Any]:
    """The objects of a stream."""
    lines = [line.removeprefix("data: ") for line in said.text.split("\n\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


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
        chunks = chunks_of(said)
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        text = "".join(part["delta"].get("content", "") for part in parts)
        shown = [entry for part in parts for entry in (part["logprobs"] or {}).get("content", [])]
        [record] = [chunk["preftilt"] for chunk in chunks if "preftilt" in chunk]
    return text, shown, record["candidates"][0]["logprobs"]["full"]


def completions(
    server: Running, *, stream: bool, max_tokens: int
) -> list[tuple[str, dict[str, Any]]]:
    """The text and the log-probs that raw :data:`PROMPTS` are answered with."""
    body = {"model": "toy", "prompt": PROMPTS, "logprobs": 0, "max_tokens": max_tokens}
    with server.http as http:
        said = http.post("/v1/completions", json=body | {"stream": stream})
    assert said.status_code == 200, said.text
    objects = chunks_of(said) if stream else [said.json()]
    answers = []
    for index in range(len(PROMPTS)):
        parts = [one for whole in objects for one in whole["choices"] if one["index"] == index]
        [told] = [part["logprobs"] for part in parts if part["logprobs"] is not None]
        answers.append(("".join(part["text"] for part in parts), told))
    return answers


def spelled(token: str) -> bytes:
    """A token of a raw completion in bytes; part of a character is written as them."""
    if token.startswith("bytes:"):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token.encode()


def scored(known: Known, prompt: str, answer: Tokens) -> list[float]:
    """The log-probs that the engine itself has for an answer to a raw prompt."""
    request = ScoreRequest(prompt=known.tokenizer.encode_raw(prompt), prefix=(), completion=answer)
    return asyncio.run(known.engine.score([request]))[0].tolist()


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_join_to_the_text_and_the_sum_is_the_record_s(known: Known, stream: bool) -> None:
    text, shown, logprobs = entries(known.server, stream=stream, max_tokens=200)
    assert text == known.text
    assert b"".join(bytes(entry["bytes"]) for entry in shown).decode() == text
    assert [entry["logprob"] for entry in shown] == logprobs[:-1]
    assert any(entry["token"].startswith("bytes:\\x") for entry in shown)


@pytest.mark.parametrize("stream", [False, True])
def test_a_raw_completion_has_an_entry_for_every_token_and_its_place(
    known: Known, stream: bool
) -> None:
    for prompt, (text, told) in zip(
        PROMPTS, completions(known.server, stream=stream, max_tokens=200), strict=True
    ):
        assert text == known.text
        pieces = [spelled(token) for token in told["tokens"]]
        assert len(pieces) == len(known.answer)
        assert b"".join(pieces).decode() == text
        # A token stands where the characters that are whole before it end.
        before = [b"".join(pieces[:place]).decode(errors="ignore") for place in range(len(pieces))]
        assert told["text_offset"] == [len(characters) for characters in before]
        assert told["token_logprobs"] == scored(known, prompt, known.answer)


def test_an_answer_cut_within_a_character_has_an_entry_for_every_token(known: Known) -> None:
    _, shown, logprobs = entries(known.server, stream=False, max_tokens=2)
    assert [entry["logprob"] for entry in shown] == logprobs
    assert known.text.encode().startswith(b"".join(bytes(entry["bytes"]) for entry in shown))
    for prompt, (_, told) in zip(
        PROMPTS, completions(known.server, stream=False, max_tokens=2), strict=True
    ):
        assert told["token_logprobs"] == scored(known, prompt, known.answer[:2])
        assert known.text.encode().startswith(b"".join(spelled(token) for token in told["tokens"]))
