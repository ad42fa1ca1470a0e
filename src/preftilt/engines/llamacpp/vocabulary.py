"""The vocabulary of a GGUF file, and llama.cpp's tokenizer with the interface of a transformers tokenizer."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preftilt.engines.control_tokens import StandIns, cannot_tell_apart
from preftilt.engines.llamacpp.bindings import LlamaModel
from preftilt.types import Tokens

UNUSED, CONTROL, LSTRIP, RSTRIP = 1 << 1, 1 << 3, 1 << 7, 1 << 8
"""llama.cpp's token attributes: unused id; control token; strips the white space before or after it."""

ANSWER = "preftilt"


class GgufTokenizer:
    """The tokenizer interface that :class:`~preftilt.engines.chat_template.HfChatTokenizer` uses, over llama.cpp.

    Text becomes tokens by llama.cpp's tokenizer, byte for byte as in its other programs; chat templates are rendered
    by transformers, as for every other engine.
    """

    def __init__(self, model: LlamaModel, name: str) -> None:
        self.name_or_path = name
        self.chat_template = model.chat_template
        self._lib, self._model = model.lib, model
        first = self.encode("a")[:1]
        # SentencePiece tokenizers add a space before a text's first word; decoding removes it.
        self._adds_space = self.piece(first[0], special=True).startswith(b" ") if first else False

    def __call__(
        self, text: str, *, add_special_tokens: bool = False, verbose: bool = False
    ) -> dict[str, list[int]]:
        """As in transformers: ``input_ids`` of a text. Special tokens that the text spells are parsed."""
        return {"input_ids": [*self.encode(text, add_special=add_special_tokens)]}

    def control_tokens(self) -> GgufControlTokens:
        """Every control token of the file."""
        control = (token for token in range(self._model.size) if self.attributes(token) & CONTROL)
        named = {
            self.piece(token, special=True).decode("utf-8", "replace"): token for token in control
        }
        longest_first = sorted(named, key=lambda text: (-len(text), text))
        return GgufControlTokens(
            self, {text: named[text] for text in longest_first if text.strip()}
        )

    def encode(self, text: str, *, special: bool = True, add_special: bool = False) -> Tokens:
        """Token ids of a text; ``special``: control tokens that it spells are parsed as such.

        add_special: with the special tokens that the model's file puts around texts.
        """
        data = text.encode()
        size = len(data) + 8
        while True:
            buffer = (self._lib.llama_token * size)()
            count = self._lib.llama_tokenize(
                self._model.vocab, data, len(data), buffer, size, add_special, special
            )
            if count >= 0:
                return tuple(buffer[:count])
            size = -count

    def decode(
        self,
        tokens: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of tokens, from their bytes; white space is never cleaned up."""
        if clean_up_tokenization_spaces:
            raise ValueError("white space stays as the model wrote it")
        data = b"".join(self.piece(token, special=not skip_special_tokens) for token in tokens)
        return data.removeprefix(b" " if self._adds_space else b"").decode("utf-8", "replace")

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of one token; none for a control token unless ``special``."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.llama_token_to_piece(
                self._model.vocab, token, buffer, size, 0, special
            )
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes of one token; None for a control token."""
        return None if self.attributes(token) & CONTROL else self.piece(token, special=False)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        chat_template: str,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Render a conversation with transformers' own function; the signature is transformers', too."""
        from transformers.utils.chat_template_utils import render_jinja_template

        if tokenize:
            raise ValueError("ask for text, and encode it")
        [text], _ = render_jinja_template(
            conversations=[[dict(message) for message in conversation]],
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            **{**self._named_tokens(), **variables},
        )
        return text

    def unused(self) -> np.ndarray:
        """Ids without a token: padding of the vocabulary, and gaps in it."""
        ids = range(self._model.size)
        return np.array([token for token in ids if self.attributes(token) & UNUSED], dtype=np.int64)

    def end_tokens(self, template: str | None) -> tuple[frozenset[int], int | None]:
        """Ids that end a response, and the one that ends an assistant's turn.

        The first are llama.cpp's end-of-generation tokens. The second is the control token that ``template`` writes
        right after an answer, or else the end-of-text token of the file.
        """
        is_end = self._lib.llama_vocab_is_eog
        named = {token for token in range(self._model.size) if is_end(self._model.vocab, token)}
        candidates = [self._after_answer(template), self._id("eos"), self._id("eot")]
        turn_end = next(
            (token for token in (*candidates, *sorted(named)) if token is not None), None
        )
        return frozenset(named if turn_end is None else named | {turn_end}), turn_end

    def _after_answer(self, template: str | None) -> int | None:
        if template is None:
            return None
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
        try:
            text = self.apply_chat_template(turns, chat_template=template)
        except Exception:  # A template that cannot render this says nothing about how turns end.
            return None
        first = self.encode(text.rpartition(ANSWER)[2].lstrip())[:1]
        return first[0] if first and self.attributes(first[0]) & CONTROL else None

    def attributes(self, token: int) -> int:
        """llama.cpp's flags of a token."""
        return self._lib.llama_vocab_get_attr(self._model.vocab, token)

    def _id(self, role: str) -> int | None:
        token = getattr(self._lib, f"llama_vocab_{role}")(self._model.vocab)
        return token if token >= 0 else None

    def _named_tokens(self) -> dict[str, str]:
        """The tokens that transformers passes to templates by role (``bos_token``, …)."""
        roles = {role: self._id(role) for role in ("bos", "eos", "pad")}
        return {
            f"{role}_token": self.piece(token, special=True).decode("utf-8", "replace")
            for role, token in roles.items()
            if token is not None
        }


@dataclass(frozen=True, slots=True)
class GgufControlTokens:
    """See :class:`~preftilt.engines.control_tokens.ControlTokens`. ids: every control token's, longest first."""

    tokenizer: GgufTokenizer
    ids: Mapping[str, int]

    def texts(self) -> Collection[str]:
        return self.ids.keys()

    def encode(self, text: str, stand_ins: StandIns) -> Tokens:
        """Encode the text between control tokens piece by piece, as llama.cpp does, without parsing control tokens."""
        pieces = re.split(f"({'|'.join(map(re.escape, self.ids))})", text)
        control_ids = [None, *(self.ids[piece] for piece in pieces[1::2]), None]
        tokens: list[int] = []
        for part, before, after in zip(pieces[::2], control_ids[:-1], control_ids[1:], strict=True):
            tokens += [] if before is None else [before]
            tokens += self._encode_text(part, before, after, stand_ins)
        return tuple(tokens)

    def _encode_text(
        self, text: str, before: int | None, after: int | None, stand_ins: StandIns
    ) -> Tokens:
        if before is not None and self.tokenizer.attributes(before) & RSTRIP:
            text = text.lstrip()
        if after is not None and self.tokenizer.attributes(after) & LSTRIP:
            text = text.rstrip()
        tokens = self.tokenizer.encode(stand_ins.show(text), special=False) if text else ()
        if not set(self.ids.values()).isdisjoint(tokens):
            raise cannot_tell_apart(stand_ins.spelled.values())
        return tokens
