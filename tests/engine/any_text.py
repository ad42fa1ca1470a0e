"""A toy engine whose tokenizer can spell any text, and which says what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.messages import Message
from preftilt.prompt import ChatTokenizer
from preftilt.testing.toy import NextLogprobs, ToyEngine, ToyTokenizer
from preftilt.types import Tokens


@dataclass(frozen=True, slots=True)
class AnyText(ChatTokenizer):
    """The vocabulary of a real tokenizer under the toy's prompts.

    Token 0 ends an answer, the tokenizer's own are one behind, and the last ends every prompt. ``seen`` has all texts
    that were read: of messages, of raw prompts and of responses.
    """

    chat: HfChatTokenizer
    seen: list[str] = field(default_factory=list)

    @property
    def words(self) -> range:
        return range(2 + len(self.chat._tokenizer))

    def render(self, messages: Sequence[Message]) -> Tokens:
        self.seen.extend(message.content for message in messages)
        return (*ToyTokenizer().render(messages)[:4], self.words[-1])

    def encode(self, text: str) -> Tokens:
        return _outer(self.chat.encode(text))

    def encode_raw(self, text: str) -> Tokens:
        self.seen.append(text)
        return (*self.encode(text), self.words[-1])

    def encode_response(self, text: str, after: str = "") -> Tokens:
        self.seen.append(text)
        return self.spelled(text, after)

    def spelled(self, text: str, after: str = "") -> Tokens:
        """The ids of a response, which nobody has read yet."""
        return _outer(self.chat.encode_response(text, after))

    def decode(self, tokens: Tokens) -> str:
        return self.chat.decode(_inner(tokens))

    def pieces(self, tokens: Tokens) -> list[str]:
        return ["" if token == 0 else self.chat.pieces((token - 1,))[0] for token in tokens]

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        spelled = iter(self.chat.spell_bytes(_inner(tokens)))
        return [None if token == 0 else next(spelled) for token in tokens]


def _outer(tokens: Tokens) -> Tokens:
    return tuple(token + 1 for token in tokens)


def _inner(tokens: Tokens) -> Tokens:
    return tuple(token - 1 for token in tokens if token)


def saying(tokenizer: AnyText, answer: Tokens) -> NextLogprobs:
    """A model that says ``answer`` behind every prompt, token by token, and ends; behind other words it guesses."""
    whole = (*answer, 0)

    def next_logprobs(context: Tokens) -> Float[np.ndarray, "V"]:
        said = context[context.index(tokenizer.words[-1]) + 1 :]
        logits = np.zeros(len(tokenizer.words))
        if len(said) < len(whole) and whole[: len(said)] == said:
            logits[whole[len(said)]] = 30.0
        return logits - np.log(np.exp(logits).sum())

    return next_logprobs


def engine_saying(tokenizer: AnyText, answer: Tokens = ()) -> ToyEngine:
    """The toy engine over it."""
    engine = ToyEngine(saying(tokenizer, answer), max_context=2048)
    engine.tokenizer = tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    return engine
