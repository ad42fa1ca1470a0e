"""The bytes of single tokens: a character may be split over several tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"
"""SentencePiece's character for a space."""

SENTENCEPIECE = {"Sequence", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
"""The decoder types of SentencePiece tokenizers."""


@runtime_checkable
class ByteVocabulary(Protocol):
    """A tokenizer that knows the bytes of its tokens."""

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of a token; None for special tokens, which text leaves out."""
        ...


class TokenBytes:
    """The bytes of each token of a transformers tokenizer; None for special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[int, bytes | None] = {}
        self._kinds = _decoder_kinds(tokenizer)
        self._special = frozenset(getattr(tokenizer, "all_special_ids", ()))
        self._added = {
            token: added.content
            for token, added in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }

    def bytes_of(self, token: int) -> bytes | None:
        """See :class:`ByteVocabulary`."""
        if token not in self._cache:
            self._cache[token] = self._compute(token)
        return self._cache[token]

    def _compute(self, token: int) -> bytes | None:
        if token in self._special:
            return None
        if token in self._added:
            return self._added[token].encode()
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return b""
        if "ByteLevel" in self._kinds:
            alphabet = _byte_alphabet()
            return bytes(alphabet[letter] for letter in name)
        if match := _BYTE.fullmatch(name):
            return bytes.fromhex(match[1])
        if self._kinds and self._kinds <= SENTENCEPIECE:
            return name.replace(_SPACE, " ").encode()
        return self._as_second_token(token)

    def _as_second_token(self, token: int) -> bytes:
        """What the token adds as the second of two, for tokenizers of unknown type."""
        once, twice = (
            self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
            for tokens in ([token], [token, token])
        )
        return (twice[len(once) :] if twice.startswith(once) else once).encode()


def spell(vocabulary: ByteVocabulary, tokens: Sequence[int], text: str) -> list[bytes | None]:
    """The bytes of ``tokens``, which join to those of ``text``, their decoded text.

    They differ only for invalid UTF-8, which text shows as U+FFFD. If the decoder strips leading white space, the first
    tokens lose theirs, too.
    """
    pieces = [vocabulary.bytes_of(token) for token in tokens]
    whole = b"".join(piece for piece in pieces if piece is not None)
    return _without_prefix(pieces, _leading_spaces(whole) - _leading_spaces(text.encode()))


def _leading_spaces(text: bytes) -> int:
    return len(text) - len(text.lstrip(b" "))


def _without_prefix(pieces: Sequence[bytes | None], count: int) -> list[bytes | None]:
    """The pieces without the first ``count`` bytes."""
    remaining: list[bytes | None] = []
    count = max(0, count)
    for piece in pieces:
        cut = min(count, len(piece or b""))
        remaining.append(None if piece is None else piece[cut:])
        count -= cut
    return remaining


def _decoder_kinds(tokenizer: Any) -> frozenset[str]:
    """The decoder types of a tokenizer of the ``tokenizers`` library."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return frozenset()
    state = json.loads(decoder.__getstate__())
    return frozenset(decoder["type"] for decoder in [state, *state.get("decoders", ())])


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters of bytes in byte-level BPE (GPT-2): printable ones are themselves, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
