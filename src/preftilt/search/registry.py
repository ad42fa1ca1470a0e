"""The searches by name. A package adds one by an entry point of the group ``preftilt.searches``."""

from __future__ import annotations

from preftilt.plugins import Registry
from preftilt.search.base import Search
from preftilt.search.best_of_n import BestOfN
from preftilt.search.defaults import AutoSearch
from preftilt.search.dvts import DVTS
from preftilt.search.guided import ARGS, CFG, Amulet, ArmGuided, LinearAlignment
from preftilt.search.single import Greedy, Sample

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
"""Every search's class: a frozen dataclass as :class:`~preftilt.search.Search` says, whose fields are its settings."""
