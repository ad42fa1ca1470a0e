"""Choosing λ and the reduction for a task: on validation items, from stored scores, without another model call.

``reading`` reads candidates with their log-probs and qualities from records of any of our commands; ``choice`` chooses
and says how sure the choice is; ``report`` writes it for people and programs.
"""

from preftilt.eval.calibrate.choice import Calibration, Option, OptionResult, calibrate
from preftilt.eval.calibrate.reading import RatedCandidate, RatedPool, read_pools

__all__ = [
    "Calibration",
    "Option",
    "OptionResult",
    "RatedCandidate",
    "RatedPool",
    "calibrate",
    "read_pools",
]
