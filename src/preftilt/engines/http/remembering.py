"""A tokenizer that remembers which conversation a prompt came from.

The engine contract speaks tokens, and a server that only chats takes messages.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.moment import Moment, moment_of
from preftilt.prompt import ChatTokenizer, opens_thoughts, thoughts_in
from preftilt.types import Tokens

REMEMBERED, REMEMBERED_CHARS = 4096, 256 << 20
"""Conversations kept, and characters in them, images included; a request is drawn right after its prompt is made."""


@dataclass(slots=True)
class RememberingTokenizer:
    """``inner``, and the conversations that it made prompts of lately."""

    inner: ChatTokenizer
    _made: OrderedDict[Tokens, tuple[Message, ...]] = field(default_factory=OrderedDict)
    _held: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def render(self, messages: Sequence[Message]) -> Tokens:
        tokens = self.inner.render(messages)
        with self._lock:
            self._held += _size(messages) - _size(self._made.pop(tokens, ()))
            self._made[tokens] = tuple(messages)
            while len(self._made) > 1 and self._too_much:
                self._held -= _size(self._made.popitem(last=False)[1])
        return tokens

    @property
    def _too_much(self) -> bool:
        return len(self._made) > REMEMBERED or self._held > REMEMBERED_CHARS

    @property
    def moment(self) -> Moment | None:
        """See :class:`~preftilt.moment.DatedTokenizer`."""
        return moment_of(self.inner)

    def encode(self, text: str) -> Tokens:
        return self.inner.encode(text)

    def encode_response(self, text: str, after: str = "") -> Tokens:
        return self.inner.encode_response(text, after)

    def decode(self, tokens: Tokens) -> str:
        return self.inner.decode(tokens)

    @property
    def opens_thoughts(self) -> bool:
        """See :class:`~preftilt.prompt.ReasoningTokenizer`."""
        return opens_thoughts(self.inner)

    def thoughts(self, tokens: Tokens) -> int:
        return thoughts_in(self.inner, tokens)

    def pieces(self, tokens: Tokens) -> list[str]:
        return self.inner.pieces(tokens)

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        return self.inner.spell_bytes(tokens)

    def encode_raw(self, text: str) -> Tokens:
        raise BadInput(
            "a server that only chats can answer conversations, not raw prompts; use /v1/chat/completions"
        )

    def conversation(self, prompt: Tokens) -> tuple[Message, ...]:
        """The messages behind a prompt; raises :class:`~preftilt.errors.BadInput` for one that was not made here."""
        with self._lock:
            messages = self._made.get(prompt)
        if messages is None:
            raise BadInput(
                "a server that only chats can answer conversations, not token prompts from elsewhere; use a server"
                " with /v1/completions"
            )
        return messages


def _size(messages: Sequence[Message]) -> int:
    """Characters of a conversation; an image is as long as its URL, which may hold its data."""
    return sum(
        len(message.content) + sum(len(each.url) for each in message.images) for message in messages
    )
