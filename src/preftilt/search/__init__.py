"""Searches: frozen settings, pure plans. They know no engine and no model."""

from preftilt.search.base import Plan, Score, Search, best, rank, rear
from preftilt.search.best_of_n import BestOfN, Greedy, Sample
from preftilt.search.dvts import DVTS
from preftilt.search.guided import ARGS, CFG, Amulet, ArmGuided, GuidedSearch, LinearAlignment
from preftilt.search.registry import (
    PRESETS,
    SEARCHES,
    AutoSearch,
    Preset,
    default_lam,
    default_search,
)

__all__ = [
    "ARGS",
    "CFG",
    "DVTS",
    "PRESETS",
    "SEARCHES",
    "Amulet",
    "ArmGuided",
    "AutoSearch",
    "BestOfN",
    "Greedy",
    "GuidedSearch",
    "LinearAlignment",
    "Plan",
    "Preset",
    "Sample",
    "Score",
    "Search",
    "best",
    "default_lam",
    "default_search",
    "rank",
    "rear",
]
