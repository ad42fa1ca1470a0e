"""Searches that draw one response: what the model says by itself, greedily or by sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from preftilt.search.base import Plan, Score
from preftilt.types import Candidate, Expand, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """The most likely token at every position (temperature 0), whatever the sampling settings say."""

    name: str = field(default="greedy", init=False)

    @property
    def candidates(self) -> int:
        return 1

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [_one(root, max_tokens, greedy=True)]

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        [outcome] = outcomes
        return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Draw one response under the sampling settings; it is the first candidate of best-of-N."""

    name: str = field(default="sample", init=False)

    @property
    def candidates(self) -> int:
        return 1

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [_one(root, max_tokens, greedy=False)]

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        [outcome] = outcomes
        return outcome


def _one(root: Candidate, max_tokens: int, *, greedy: bool) -> Plan:
    room = max_tokens - len(root.tokens)
    responses = yield Expand(parent=root, slots=(0,), max_tokens=room, greedy=greedy)
    return Outcome(tuple(responses), stopped="one response drawn")
