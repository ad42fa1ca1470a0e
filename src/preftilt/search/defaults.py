"""What a request that does not say its search, or its λ, gets; both are decided by what the engine can do.

λ has one default a search, because the two uses of λ have different scales: a search that draws responses and scores
them compares sums over whole responses; one that guides decoding mixes the distributions of every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput
from preftilt.reward import LAMBDA, LAMBDA_OF_TOKENS
from preftilt.search.base import Plan, Score, Search
from preftilt.search.best_of_n import BestOfN
from preftilt.search.guided import CFG
from preftilt.types import Candidate, Outcome

WHERE_GUIDING: BestOfN | CFG = CFG(greedy=True)
"""The search on an engine that can choose every token from several views: what followed best on SmolLM2, at twice the
rows of one answer (docs/decisions/0006-defaults.md)."""

WHERE_DRAWING: BestOfN | CFG = BestOfN()
"""The search on an engine that can only draw and score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSearch:
    """The search that suits the engine, decided when a request is prepared.

    It is greedy :class:`~preftilt.search.CFG` where the engine can guide decoding, and
    :class:`~preftilt.search.BestOfN` where it can only draw and score. Where the request says how to sample, wants
    several answers or picks by another method, guided responses are drawn.

    Attributes:
        n: answers to pick from. None takes that search's default.
    """

    n: int | None = setting(None, least=1, flags=("--n", "-n"), told="16; guided, 1")
    name: str = field(default="auto", init=False)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def candidates(self) -> int:
        return max(default_search(guides, self.n).candidates for guides in (True, False))

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        self._refuse()

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadInput(
            "the search 'auto' is decided by the engine: name one, or ask a Realigner (Realigner.settled)"
        )


def default_search(guides: bool, n: int | None = None, *, draws: bool = False) -> BestOfN | CFG:
    """The search of a request that names none.

    guides: whether its engine can choose every token. n: answers to pick from. draws: the request says how to sample,
    or wants several answers, so that a greedy one will not do.
    """
    search = WHERE_GUIDING if guides else WHERE_DRAWING
    if isinstance(search, CFG) and (draws or (n or 1) > 1):
        search = replace(search, greedy=False)
    return search if n is None else replace(search, n=n)


def default_lam(search: Search) -> float:
    """λ of a request that names none, under ``search``."""
    return LAMBDA_OF_TOKENS.get(search.name, LAMBDA)
