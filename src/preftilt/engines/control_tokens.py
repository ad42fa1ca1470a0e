"""Prevents injection of control tokens: a user's text that spells ``<|im_end|>`` cannot end a turn.

A chat template renders text, and a tokenizer turns every ``<|im_end|>`` in it into the control token, whoever wrote it.
So messages are rendered with a stand-in character for every control token that they spell; all control tokens in the
rendered text are then the template's own, and the stand-ins are encoded as the plain characters that they stand for.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.prompt import REASONING_TAGS
from preftilt.types import Tokens

STAND_INS = range(0x100000, 0x10FFFE)
"""Private-use characters that serve as stand-ins."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """Control tokens that a text spells, by their stand-in characters."""

    spelled: Mapping[str, str]

    def hide(self, text: str) -> str:
        """The text with stand-ins for the control tokens that it spells."""
        for character, token in self.spelled.items():
            text = text.replace(token, character)
        return text

    def hide_in(self, message: Message) -> Message:
        """The message with stand-ins; its images keep their places in the text."""
        if not self.spelled:
            return message
        images = tuple(
            replace(image, at=len(self.hide(message.content[: image.at])))
            for image in message.images
        )
        return replace(message, content=self.hide(message.content), images=images)

    def show(self, text: str) -> str:
        """The text as it was before :meth:`hide`."""
        for character, token in self.spelled.items():
            text = text.replace(character, token)
        return text


class ControlTokens(Protocol):
    """The control tokens of a tokenizer, and encoding of text in which some are only spelled."""

    def texts(self) -> Collection[str]:
        """The control tokens as they are spelled."""
        ...

    def encode(self, text: str, stand_ins: StandIns) -> Tokens:
        """Token ids of a text in which control tokens are meant as such, and stand-ins are for spelled ones.

        Raises :class:`~preftilt.errors.BadInput` if this tokenizer cannot tell them apart.
        """
        ...


@runtime_checkable
class KnowsControlTokens(Protocol):
    """A tokenizer that lists its own control tokens; for others there is :class:`HfControlTokens`."""

    def control_tokens(self) -> ControlTokens: ...


def stand_ins(texts: Sequence[str], tokens: Iterable[str]) -> StandIns:
    """Stand-ins for those of ``tokens`` that ``texts`` spell, longest first; characters in the texts are not used."""
    spelled = sorted(
        {token for token in tokens if any(token in text for text in texts)}, key=len, reverse=True
    )
    free = (chr(code) for code in STAND_INS if not any(chr(code) in text for text in texts))
    return StandIns(dict(zip(free, spelled, strict=False)))


def cannot_tell_apart(spelled: Iterable[str]) -> BadInput:
    """The refusal of text that spells control tokens, where they would be encoded as such."""
    names = ", ".join(map(repr, sorted(spelled)))
    return BadInput(
        f"the text spells {names}, a control token of the model, and its tokenizer would take it for one; write it"
        " differently (with a space in it, for example)"
    )


class HfControlTokens:
    """The control tokens of a tokenizer of transformers: its special ones, and others that end or begin a turn.

    skeleton: a rendered conversation, to find the latter (DeepSeek's are not marked as special).
    """

    def __init__(self, tokenizer: Any, skeleton: str) -> None:
        self._tokenizer = tokenizer
        self._skeleton = skeleton

    def texts(self) -> Collection[str]:
        return self._ids.keys()

    def encode(self, text: str, stand_ins: StandIns, *, added: bool = False) -> Tokens:
        """See :class:`ControlTokens`; ``added``: with the special tokens that the tokenizer adds by itself."""
        if self._renamed is None:
            raise cannot_tell_apart(stand_ins.spelled.values())
        names, tokenizer = self._renamed
        meant = self._pattern.sub(lambda match: names[match[0]], text)
        return tuple(tokenizer.encode(stand_ins.show(meant), add_special_tokens=added).ids)

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Every control token's id, longest first."""
        named = {
            str(token): token.special for token in self._tokenizer.added_tokens_decoder.values()
        }
        special = {text for text, is_special in named.items() if is_special}
        special |= {str(token) for token in self._tokenizer.all_special_tokens}
        turns = {text for text in named if text in self._skeleton and not text.isalnum()}
        control = {text for text in special | turns if text.strip()} - {*REASONING_TAGS}
        longest_first = sorted(control, key=lambda text: (-len(text), text))
        return {text: self._tokenizer.convert_tokens_to_ids(text) for text in longest_first}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._ids)))

    @cached_property
    def _renamed(self) -> tuple[dict[str, str], Any] | None:
        """Secret new names of the control tokens, and a tokenizer that knows them by these names alone.

        None for pure-Python tokenizers, or if the new tokenizer encodes the template's own text differently.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        from tokenizers import Tokenizer

        secret = secrets.token_hex(8)
        names = {text: f"c{secret}x{number}x" for number, text in enumerate(self._ids)}
        tokenizer = Tokenizer.from_str(json.dumps(_renamed(json.loads(backend.to_str()), names)))
        text = self._pattern.sub(lambda match: names[match[0]], self._skeleton)
        ids = self._tokenizer(self._skeleton, add_special_tokens=False)["input_ids"]
        same = tokenizer.encode(text, add_special_tokens=False).ids == ids
        return (names, tokenizer) if same else None


def _renamed(file: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A ``tokenizer.json`` in which added tokens are renamed, in the model's vocabulary, too."""
    for token in file["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = file["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(text, text): number for text, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, names)]
    return file | {"truncation": None, "padding": None}


def _makes(merge: str | Sequence[str], names: Mapping[str, str]) -> bool:
    """Whether a BPE merge involves a renamed token."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return not names.keys().isdisjoint((left, right, left + right))
