"""Searches that draw whole responses: what the model says by itself, greedily or by sampling, and the best of N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from preftilt.declare import check_settings, setting
from preftilt.search.base import OnePlan, Plan, Score, rank
from preftilt.types import Candidate, Expand, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN(OnePlan):
    """Draw ``n`` responses and take the one with the highest score (REAR, arXiv 2606.30339, section 4).

    Attributes:
        n: answers to pick from; 1 is plain sampling. The candidates of a smaller ``n`` are the first of a larger one.
    """

    n: int = setting(16, least=1)
    name: str = field(default="best-of-n", init=False)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def candidates(self) -> int:
        return self.n

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [self._plan(root, score, max_tokens)]

    def _plan(self, root: Candidate, score: Score, max_tokens: int) -> Plan:
        room = max_tokens - len(root.tokens)
        responses = yield Expand(parent=root, slots=tuple(range(self.n)), max_tokens=room)
        return Outcome(rank(responses, score), stopped="all candidates drawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy(OnePlan):
    """The most likely token at every position (temperature 0), whatever the sampling settings say."""

    name: str = field(default="greedy", init=False)

    @property
    def candidates(self) -> int:
        return 1

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [_single(root, max_tokens, greedy=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(OnePlan):
    """Draw one response under the sampling settings; it is the first candidate of best-of-N."""

    name: str = field(default="sample", init=False)

    @property
    def candidates(self) -> int:
        return 1

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [_single(root, max_tokens, greedy=False)]


def _single(root: Candidate, max_tokens: int, *, greedy: bool) -> Plan:
    room = max_tokens - len(root.tokens)
    responses = yield Expand(parent=root, slots=(0,), max_tokens=room, greedy=greedy)
    return Outcome(tuple(responses), stopped="one response drawn")
