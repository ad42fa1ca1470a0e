"""What can be named as a search: the searches, and presets, which are a search with its sampling; and what a request
that does not say its search, or its λ, gets, which is decided by what the engine can do.

λ has one default a search, because the two uses of λ have different scales: a search that draws responses and scores
them compares sums over whole responses; one that guides decoding mixes the distributions of every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput
from preftilt.plugins import Registry
from preftilt.reward import LAMBDA, LAMBDA_OF_TOKENS
from preftilt.search.base import Plan, Score, Search
from preftilt.search.best_of_n import BestOfN, Greedy, Sample
from preftilt.search.dvts import DVTS
from preftilt.search.guided import ARGS, CFG, Amulet, ArmGuided, LinearAlignment
from preftilt.types import Candidate, Outcome, Sampling

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


OWN: tuple[type[Search], ...] = (
    AutoSearch,
    BestOfN,
    DVTS,
    Sample,
    Greedy,
    CFG,
    LinearAlignment,
    Amulet,
    ArmGuided,
    ARGS,
)

SEARCHES = Registry("preftilt.searches", {kind().name: kind for kind in OWN})
"""Every search's class: a frozen dataclass as :class:`~preftilt.search.Search` says, whose fields are its settings.

A package adds one by an entry point of the group ``preftilt.searches``."""


@dataclass(frozen=True, slots=True)
class Preset:
    """The settings that a paper or its code names: a search with the sampling that goes with it.

    It is named where a search is named (``--search la-author``); what is given beside it changes it.
    """

    search: LinearAlignment | Amulet | ArmGuided
    sampling: Sampling


PRESETS = {
    "la-author": Preset(
        LinearAlignment(ratio=2.0, mask_top_p=0.8, mask_temperature=0.7), Sampling(temperature=0.7)
    ),
    "la-amulet-repo": Preset(LinearAlignment(ratio=2.0), Sampling(temperature=0.0)),
    "amulet-default": Preset(Amulet(), Sampling(temperature=0.0)),
    "genarm-pku": Preset(ArmGuided(), Sampling()),
    "parm-pku": Preset(ArmGuided(), Sampling(temperature=0.0)),
    "uniarm-recon": Preset(ArmGuided(), Sampling(temperature=0.0)),
}
"""``la-author``: the demo of Linear Alignment's authors, which samples from the nucleus 0.8 of the tempered
distribution with the preference. ``la-amulet-repo``: what Amulet's repository, and REAR after it, compares with: the
argmax, on which its top-p of 0.95 has no effect. ``amulet-default``: Amulet's published constants, and the argmax.

``genarm-pku``: draws from the exact product at temperature 1, as GenARM's engine does on PKU-SafeRLHF. ``parm-pku``:
the argmax of base and PARM, both of weight 1. ``uniarm-recon``: the same for our reconstruction of UniARM. Their reward
models, the preference vector and the weights are named beside them; all take up to 512 tokens, which is the default."""
