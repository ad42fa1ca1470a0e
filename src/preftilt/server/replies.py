"""Responses in OpenAI's format: chat completions, completions, their chunks, and usage."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import preftilt
from preftilt.prompt import ChatTokenizer
from preftilt.result import number
from preftilt.server.work import Answer, Choice

Kind = Literal["chat", "text"]

FINGERPRINT = f"preftilt-{preftilt.__version__}"


@dataclass(frozen=True, slots=True)
class ResponseMeta:
    """The fields that every object of one response begins with. ``kind``: chat or text completion."""

    kind: Kind
    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """id, object, created, model and fingerprint."""
        names = {"chat": "chat.completion", "text": "text_completion"}
        suffix = ".chunk" if chunk and self.kind == "chat" else ""
        prefix = {"chat": "chatcmpl-", "text": "cmpl-"}[self.kind]
        return {
            "id": prefix + self.id,
            "object": names[self.kind] + suffix,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }


def whole(
    meta: ResponseMeta,
    answer: Answer,
    tokenizer: ChatTokenizer,
    *,
    logprobs: bool,
    details: bool,
    pieces: bool,
) -> dict[str, Any]:
    """The reply to a request that does not stream."""
    say = _chat_choice if meta.kind == "chat" else _text_choice
    reply = meta.head(chunk=False) | {
        "choices": [
            say(index, choice, token_logprobs(meta.kind, choice, tokenizer) if logprobs else None)
            for index, choice in enumerate(answer.choices)
        ],
        "usage": usage(answer),
    }
    return reply | details_of(answer, details, pieces)


def details_of(answer: Answer, wanted: bool, pieces: bool) -> dict[str, Any]:
    """The ``preftilt`` object, if asked for: the record of ``preftilt ask --json``, and perhaps its tokens' texts."""
    if not wanted or answer.record is None:
        return {}
    more = {"pieces": [list(texts) for texts in answer.record.pieces]} if pieces else {}
    return {"preftilt": answer.record.to_json() | more}


def chunk(meta: ResponseMeta, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One object of a stream."""
    return meta.head(chunk=True) | {"choices": list(choices)}


def delta(
    kind: Kind,
    index: int,
    *,
    text: str | None = None,
    finish: str | None = None,
    logprobs: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A choice of a chunk; ``more`` are fields of the delta (chat), or of the choice (text)."""
    if kind == "text":
        choice = {"index": index, "text": text or "", "logprobs": logprobs, **(more or {})}
        return choice | {"finish_reason": finish}
    content = {} if text is None else {"content": text}
    fields = {"delta": content | (more or {}), "logprobs": logprobs, "finish_reason": finish}
    return {"index": index, **fields}


def usage(answer: Answer) -> dict[str, Any]:
    """All tokens that were spent, those of candidates that were not picked too.

    ``prompt_tokens`` were read: the prompt of every view once, and every token that was scored. ``completion_tokens``
    were sampled.
    """
    spent = answer.usage
    read = sum(spent.prompt.values()) + sum(spent.scored.values())
    return {
        "prompt_tokens": read,
        "completion_tokens": spent.sampled,
        "total_tokens": read + spent.sampled,
        "preftilt": {
            "candidates": answer.candidates,
            "sampled": spent.sampled,
            "scored": dict(spent.scored),
            "cached": spent.reused,
            "duplicates": spent.duplicates,
            "prompt": dict(spent.prompt),
        },
    }


def _chat_choice(index: int, choice: Choice, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": choice.finish,
    }


def _text_choice(index: int, choice: Choice, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": choice.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish,
    }


def token_logprobs(kind: Kind, choice: Choice, tokenizer: ChatTokenizer) -> dict[str, Any] | None:
    """The log-probs (nats, raw) of the tokens that the text is made of; alternatives are not known."""
    if choice.logprobs is None:
        return None
    shown = _shown(choice, tokenizer)
    if kind == "chat":
        return {"content": [_chat_token(piece, at) for piece, at, _ in shown], "refusal": None}
    return {
        "tokens": [_token_text(piece) for piece, _, _ in shown],
        "token_logprobs": [at for _, at, _ in shown],
        "top_logprobs": None,
        "text_offset": [offset for _, _, offset in shown],
    }


def _shown(choice: Choice, tokenizer: ChatTokenizer) -> list[tuple[bytes, float | None, int]]:
    """Bytes, log-prob and place in the text of every token that the text is made of, part of a character or not.

    Special tokens are no part of it, nor is what begins behind a text that was cut at a stop string.
    """
    assert choice.logprobs is not None
    shown: list[tuple[bytes, float | None, int]] = []
    cut = len(tokenizer.decode(choice.tokens)) > len(choice.text)
    characters, offset = codecs.getincrementaldecoder("utf-8")("replace"), 0
    for piece, logprob in zip(tokenizer.spell_bytes(choice.tokens), choice.logprobs, strict=True):
        if piece is None:
            continue
        if cut and offset >= len(choice.text):
            break
        shown.append((piece, number(logprob), offset))
        offset += len(characters.decode(piece))
    return shown


def _token_text(piece: bytes) -> str:
    """A token as text; OpenAI writes part of a character as its bytes."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _chat_token(piece: bytes, logprob: float | None) -> dict[str, Any]:
    # OpenAI writes what has no chance as -9999; JSON has no minus infinity.
    value = -9999.0 if logprob is None else logprob
    token = {"token": _token_text(piece), "logprob": value}
    return token | {"bytes": list(piece), "top_logprobs": []}
