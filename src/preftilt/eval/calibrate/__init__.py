"""Choosing λ and the reduction for a task: on validation items, from stored scores, without another model call.

``stored`` reads candidates with their log-probs and qualities from records of any of our commands; ``choice`` chooses
and says how sure the choice is; ``telling`` says it to people.
"""

from preftilt.eval.calibrate.choice import Calibration, Option, Standing, calibrate
from preftilt.eval.calibrate.reading import Pool, Rated, read_pools

__all__ = ["Calibration", "Option", "Pool", "Rated", "Standing", "calibrate", "read_pools"]
