"""What an engine needs to know of a tokenizer: the known ids, those that end a response, the text of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftilt.prompt import ChatTokenizer

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
