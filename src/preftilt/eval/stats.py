"""Statistics of paired measurements: intervals by the bootstrap over items, and whether two methods differ.

Intervals are percentiles of resampled means (Efron and Tibshirani, 1993). Two methods measured on the same items are
compared item by item: their interval is that of the mean difference. The p-value is McNemar's exact test (McNemar,
1947) where both have only 0 and 1 for values, which looks at the items on which they disagree; otherwise the bootstrap
over items (Efron and Tibshirani, chapter 16), two-sided: the resampled differences are moved to mean 0, and p is the
share of them that are as far from 0 as the one that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np
from jaxtyping import Float

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` items with its 95 % percentile interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Float[np.ndarray, "N"], seed: int = 0) -> Interval:
    """The mean of per-item values and its interval; equal seeds resample equal items."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("an interval needs at least one value, all of them finite")
    low, high = np.percentile(weights(values.size, seed) @ values, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), int(values.size))


@lru_cache(maxsize=4)
def weights(n: int, seed: int) -> Float[np.ndarray, "R N"]:
    """How much each item counts in each resample: the same for every metric of the same length."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def ratio_interval(
    totals: Float[np.ndarray, "U"], counts: Float[np.ndarray, "U"], seed: int = 0
) -> Interval:
    """The mean over all items of ``U`` groups, Σ totals / Σ counts, with its interval from resampling whole groups.

    Items of one group (the pairs of one user) are not independent, so it is groups that chance draws. ``n`` counts
    items.
    """
    totals, counts = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if counts.size == 0 or not np.isfinite(totals).all() or not (counts > 0).all():
        raise ValueError("an interval needs at least one group, each with at least one item")
    drawn = weights(counts.size, seed)
    low, high = np.percentile((drawn @ totals) / (drawn @ counts), [2.5, 97.5])
    mean = totals.sum() / counts.sum()
    return Interval(float(mean), float(low), float(high), int(counts.sum()))


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
