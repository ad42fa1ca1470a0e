"""The interface of reward models: conversations with a response in, one score each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from preftilt.messages import Message

Pair = tuple[Sequence[Message], str]
"""A conversation that ends with a user turn, and the text of a response to it. The preference is part of the
conversation: a system message, or the beginning of the last user turn."""


@dataclass(frozen=True, slots=True)
class RewardScores:
    """Scores of N pairs, and what they cost.

    scores: higher is better, in the model's own unit; None where there is no score (the pair does not fit into the
    model's context), never a number that stands for it. forwards: sequences that were read in full. tokens: their
    tokens, padding apart.
    """

    scores: tuple[float | None, ...]
    forwards: int = 0
    tokens: int = 0


@runtime_checkable
class RewardModel(Protocol):
    """Scores whole responses. Safe to call from many tasks at once; it batches what it is given."""

    @property
    def name(self) -> str:
        """What it is, for the record: how it was named when it was opened."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the numbers."""
        ...

    def check(self, messages: Sequence[Message]) -> None:
        """Raises :class:`~preftilt.errors.BadInput` if no response to this conversation could be scored."""
        ...

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        """One score a pair, in order. Raises :class:`~preftilt.errors.EngineError` where the model fails."""
        ...

    def close(self) -> None:
        """Release threads, connections and memory."""
        ...
