"""What an engine needs to know of a tokenizer: the known ids, those that end a response, the text and bytes of each.

A prompt with images has as many image tokens as the model has embeddings for them. Plain placeholders would be the same
for all images, so they get ids of their own, above every vocabulary: a digest of the prompt's images, and the token's
number among them. So prompts are plain token ids, and two prompts are equal only if their images are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any, Protocol, runtime_checkable

from preftilt.errors import BadInput
from preftilt.messages import Image
from preftilt.prompt import ChatTokenizer
from preftilt.types import Tokens

PROBE = "preftilt"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids below ``size`` other than ``holes`` (ids without a token) can be drawn; those in ``eos`` end a response."""

    size: int
    holes: tuple[int, ...]
    eos: frozenset[int]
    tokenizer: ChatTokenizer
    _pieces: dict[int, str] = field(default_factory=dict)

    def extended_step_text(self, text: str, tokens: Sequence[int], delimiter: str) -> str:
        """The text of a search step, ``text`` extended by its last token, for finding the step's end.

        A delimiter outside ASCII may be split within a character, so then the whole step is decoded.
        """
        if not delimiter.isascii():
            return self.tokenizer.decode(tuple(tokens))
        token = tokens[-1]
        if token not in self._pieces:
            [self._pieces[token]] = self.tokenizer.pieces((token,))
        return text + self._pieces[token]


def step_ended(text: str, delimiter: str) -> bool:
    """Whether a search step's text so far completes ``delimiter`` after its first visible character.

    Text is the concatenated display text of the step's tokens, so a delimiter may span two of them.
    """
    return delimiter in text.lstrip()


def known_ids(tokenizer: Any, rows: int) -> tuple[int, tuple[int, ...]]:
    """One past the highest id that both the tokenizer and the model's ``rows`` output rows have; unknown ids below it.

    Models often pad their vocabulary to a round number. Those rows have no token, so they are left out of the softmax:
    log-probs are normalised over the known ids.
    """
    known = {token for token in tokenizer.get_vocab().values() if token < rows}
    size = max(known) + 1
    return size, tuple(token for token in range(size) if token not in known)


def end_ids(model: Any, tokenizer: Any, template: str | None) -> tuple[frozenset[int], int | None]:
    """Every id that ends a response, and the one that ends an assistant's turn.

    model: anything with a ``generation_config`` and a ``config``, which may be None.

    The union of what the generation config, the model's config and the tokenizer say, and of the special token with
    which the chat template closes an assistant's turn (``<|im_end|>``, ``<|eot_id|>``, …): instruct models end with it
    even when their configs only name the end of a document. Without such a token a turn ends as a document does.
    """
    turn = _end_of_turn(tokenizer, template)
    named = [
        token
        for entry in (
            turn,
            tokenizer.eos_token_id,
            getattr(model.generation_config, "eos_token_id", None),
            getattr(model.config, "eos_token_id", None),
        )
        for token in _listed(entry)
    ]
    return frozenset(named), named[0] if named else None


def _listed(entry: int | Iterable[int] | None) -> list[int]:
    if entry is None:
        return []
    return [entry] if isinstance(entry, int) else list(entry)


def _end_of_turn(tokenizer: Any, template: str | None) -> int | None:
    """The special token right after the assistant's words in a rendered conversation, if there is one."""
    if template is None and not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    try:
        text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    except Exception:  # A template that cannot render this says nothing about how turns end.
        return None
    after = text.rpartition(PROBE)[2].lstrip()
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    known = {*tokenizer.all_special_tokens, *added}
    special = [token for token in known if after.startswith(token)]
    return tokenizer.convert_tokens_to_ids(max(special, key=len)) if special else None


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


FIRST_IMAGE_TOKEN = 1 << 52
"""The lowest id of an image's token; with all of them below 2^53, JSON readers keep them exact."""

MAX_IMAGE_TOKENS = 1 << 16
"""Tokens of one prompt's images at most; a token's number is its id modulo this."""


def image_tokens(images: Sequence[Image], count: int) -> Tokens:
    """The ids of ``count`` tokens for a prompt's images, in order."""
    if count > MAX_IMAGE_TOKENS:
        raise BadInput(
            f"the images of a prompt have {count} tokens and may have {MAX_IMAGE_TOKENS}; show fewer or smaller ones"
        )
    digests = "/".join(image.digest for image in images).encode()
    name = int.from_bytes(blake2b(digests, digest_size=8).digest()) % (
        FIRST_IMAGE_TOKEN // MAX_IMAGE_TOKENS
    )
    start = FIRST_IMAGE_TOKEN + name * MAX_IMAGE_TOKENS
    return tuple(range(start, start + count))


def without_images(tokens: Tokens) -> Tokens:
    """The tokens without image tokens, all of which must be in the vocabulary."""
    return tuple(token for token in tokens if token < FIRST_IMAGE_TOKEN)
