"""Best-of-N: draw N responses, keep the one with the highest score (REAR, arXiv 2606.30339, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from preftilt.declare import check_settings, setting
from preftilt.search.base import Plan, Score, rank
from preftilt.types import Candidate, Expand, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
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

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        [outcome] = outcomes
        return outcome

    def _plan(self, root: Candidate, score: Score, max_tokens: int) -> Plan:
        room = max_tokens - len(root.tokens)
        responses = yield Expand(parent=root, slots=tuple(range(self.n)), max_tokens=room)
        return Outcome(rank(responses, score), stopped="all candidates drawn")
