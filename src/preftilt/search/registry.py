"""What can be named as a search: the searches, and presets, which are a search with its sampling."""

from __future__ import annotations

from dataclasses import dataclass

from preftilt.plugins import Registry
from preftilt.search.base import Search
from preftilt.search.best_of_n import BestOfN, Greedy, Sample
from preftilt.search.defaults import AutoSearch
from preftilt.search.dvts import DVTS
from preftilt.search.guided import ARGS, CFG, Amulet, ArmGuided, LinearAlignment
from preftilt.types import Sampling

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
