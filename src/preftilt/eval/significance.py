"""Whether two methods that were measured on the same items differ: an interval of the difference and a p-value.

Where both have only 0 and 1 for values it is McNemar's exact test (McNemar, 1947), which looks at the items on which
they disagree; otherwise the bootstrap over items (Efron and Tibshirani, 1993, chapter 16), two-sided: the resampled
differences are moved to mean 0, and p is the share of them that are as far from 0 as the one that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from jaxtyping import Float

from preftilt.eval.bootstrap import RESAMPLES, Interval, mean_interval, weights

Test = Literal["McNemar", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A paired difference over the items that both methods have a value for, and how surprising it is by chance."""

    difference: Interval
    p: float
    test: Test


def compare(
    values: Float[np.ndarray, "N"], reference: Float[np.ndarray, "N"], seed: int = 0
) -> Compared | None:
    """``values − reference``, item by item; NaN is no value. None if no item has both."""
    both = np.isfinite(values) & np.isfinite(reference)
    if not both.any():
        return None
    compared, other = values[both], reference[both]
    difference = mean_interval(compared - other, seed)
    if np.isin(compared, (0, 1)).all() and np.isin(other, (0, 1)).all():
        return Compared(difference, mcnemar(compared, other), "McNemar")
    return Compared(difference, paired_bootstrap(compared - other, seed), "bootstrap")


def mcnemar(values: Float[np.ndarray, "N"], reference: Float[np.ndarray, "N"]) -> float:
    """The exact two-sided p-value: disagreements fall to either side like a fair coin, if there is no difference."""
    better, worse = int((values > reference).sum()), int((values < reference).sum())
    tosses = better + worse
    tail = sum(comb(tosses, i) for i in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**tosses)


def paired_bootstrap(differences: Float[np.ndarray, "N"], seed: int = 0) -> float:
    """The two-sided p-value of a mean difference; at least 1 / (resamples + 1), as no share of resamples is exact.

    It is at least 2^(1 − N), too, which is what N differences of one sign are worth by their signs: resamples of a few
    items are too much alike, and would call any two that agree a certainty.
    """
    mean = float(differences.mean())
    resampled = weights(differences.size, seed) @ differences - mean
    # A mean that chance repeats exactly must not be lost to rounding.
    as_far = int((np.abs(resampled) >= abs(mean) - 1e-12).sum())
    return max((as_far + 1) / (RESAMPLES + 1), 2.0 ** (1 - differences.size))
