"""Intervals by the bootstrap over items (Efron and Tibshirani, 1993): percentiles of resampled means.

Two methods measured on the same items are compared item by item, so their interval is that of the mean difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
