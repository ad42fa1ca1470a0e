"""The bytes of single tokens, which text cannot show: a character may be spread over several tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"
"""How SentencePiece writes a space."""

SENTENCEPIECE = {"Sequence", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
"""The kinds of decoders that tokenizers of the SentencePiece kind are read by."""


@runtime_checkable
class ByteVocabulary(Protocol):
    """A tokenizer that knows the bytes of its tokens itself."""

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of a token; None if it is one that text leaves out."""
        ...


class TokenBytes:
    """What each token of a transformers tokenizer stands for in a text; None for tokens that text leaves out."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, bytes | None] = {}
        self._kinds = _decoder_kinds(tokenizer)
        self._special = frozenset(getattr(tokenizer, "all_special_ids", ()))
        self._added = {
            token: added.content
            for token, added in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }

    def bytes_of(self, token: int) -> bytes | None:
        """See :class:`ByteVocabulary`."""
        if token not in self._known:
            self._known[token] = self._look(token)
        return self._known[token]

    def _look(self, token: int) -> bytes | None:
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
        return self._second(token)

    def _second(self, token: int) -> bytes:
        """What the token adds behind itself, where it is not known how the tokenizer spells."""
        once, twice = (
            self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
            for tokens in ([token], [token, token])
        )
        return (twice[len(once) :] if twice.startswith(once) else once).encode()


def spell(vocabulary: ByteVocabulary, tokens: Sequence[int], text: str) -> list[bytes | None]:
    """The bytes of ``tokens``, which join to those of ``text``, what the tokenizer reads them as.

    They differ only where text cannot say what stands there: bytes that are no UTF-8, which text shows as U+FFFD.
    Decoders may strip white space in front of a text: then the first tokens lose theirs.
    """
    pieces = [vocabulary.bytes_of(token) for token in tokens]
    whole = b"".join(piece for piece in pieces if piece is not None)
    return _without(pieces, _leading_spaces(whole) - _leading_spaces(text.encode()))


def _leading_spaces(text: bytes) -> int:
    return len(text) - len(text.lstrip(b" "))


def _without(pieces: Sequence[bytes | None], count: int) -> list[bytes | None]:
    """The pieces without the first ``count`` bytes."""
    left: list[bytes | None] = []
    count = max(0, count)
    for piece in pieces:
        cut = min(count, len(piece or b""))
        left.append(None if piece is None else piece[cut:])
        count -= cut
    return left


def _decoder_kinds(tokenizer: Any) -> frozenset[str]:
    """The kinds of the decoders that a tokenizer of the ``tokenizers`` library reads its tokens with."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return frozenset()
    state = json.loads(decoder.__getstate__())
    return frozenset(decoder["type"] for decoder in [state, *state.get("decoders", ())])


@cache
def _byte_alphabet() -> dict[str, int]:
    """The letters that byte-level BPE (GPT-2) writes bytes as: printable ones as themselves, the others from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
