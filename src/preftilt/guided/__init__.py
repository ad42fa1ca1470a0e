"""Guided decoding: choosing every token from several views of the response, or with a reward model's help.

Everything here is numpy and knows no engine: the reference that engines are tested against. What runs for every token
of the embedded engine is ``guided`` in ``engines/transformers/sampler.py``.
"""

from preftilt.guided.amulet import kappa
from preftilt.guided.combine import adapted, combine, divergence, masked, view_weights
from preftilt.guided.filters import filtered, pick, plausible

__all__ = [
    "adapted",
    "combine",
    "divergence",
    "filtered",
    "kappa",
    "masked",
    "pick",
    "plausible",
    "view_weights",
]
