"""What a search is: settings, and plans that say what to grow next.

A plan is a pure generator: it yields the nodes to expand, is sent their children, and returns what it found. It
never awaits, samples, scores with a model, logs or reads a clock, so it can be tested with children written by hand.
Plans of one search do not look at each other and run concurrently; ``conclude`` joins what they found.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from preftilt import reward as rewards
from preftilt.reward import Reward, order
from preftilt.types import Candidate, CutOff, Expand, Outcome, Query


@dataclass(frozen=True, slots=True)
class Score:
    """What a search compares responses by.

    of: S(τ) in nats of each response of a pool, whole or partial, which may depend on the others of the pool; −inf for
    one that must not win. cut_off: what is done with those that were cut off, whatever their score.
    """

    of: Callable[[Sequence[Candidate]], Sequence[float]]
    cut_off: CutOff


def rear(query: Query, reward: Reward) -> Score:
    """REAR's score, as ``query`` weighs its views."""
    return Score(lambda pool: rewards.scores(pool, query, reward), reward.cut_off)


Plan = Generator[Expand, list[Candidate], Outcome]
"""Yields a node to expand, is sent its children in slot order, returns its outcome."""


@runtime_checkable
class Search(Protocol):
    """The settings of a search, a frozen dataclass; ``name`` is its name on the command line and in results."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    @property
    def candidates(self) -> int:
        """How many responses are drawn to completion at most: what the search costs, in samples."""
        ...

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        """Independent plans that start at ``root``; its tokens count for the ``max_tokens`` of a response, too."""
        ...

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        """Join the plans' outcomes, given in the order of ``plans``."""
        ...


class OnePlan:
    """The part of a search that has one plan: what that found is what the search found."""

    __slots__ = ()

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        [outcome] = outcomes
        return outcome


def rank(candidates: Sequence[Candidate], score: Score) -> tuple[Candidate, ...]:
    """A pool in the order drawn, best first (see :mod:`preftilt.reward`)."""
    cut_off = [candidate.cut_off for candidate in candidates]
    ranked = order(score.of(candidates), cut_off, score.cut_off)
    return tuple(candidates[i] for i in ranked)


def best(children: Sequence[Candidate], score: Score) -> Candidate:
    """The child to go on with; the children, as whole partial responses, are the pool."""
    return rank(children, score)[0]
