"""Statistics of what was measured: intervals, paired differences, pairs ranked by a score, and Kendall's τ.

Intervals are percentiles of resampled means (Efron and Tibshirani, 1993). Two methods measured on the same items are
compared item by item: their interval is that of the mean difference. The p-value is McNemar's exact test (McNemar,
1947) where both have only 0 and 1 for values, which looks at the items on which they disagree; otherwise the bootstrap
over items (Efron and Tibshirani, chapter 16), two-sided: the resampled differences are moved to mean 0, and p is the
share of them that are as far from 0 as the one that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput

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
    low, high = percentile_interval(weights(values.size, seed) @ values)
    return Interval(float(values.mean()), float(low), float(high), int(values.size))


def percentile_interval(resampled: Float[np.ndarray, "R *n"]) -> Float[np.ndarray, "2 *n"]:
    """The ends of the 95 % interval of what was computed from R resamples."""
    return np.percentile(resampled, [2.5, 97.5], axis=0)


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
    low, high = percentile_interval((drawn @ totals) / (drawn @ counts))
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


FEWEST_METHODS = 3


@dataclass(frozen=True, slots=True)
class PairRanking:
    """How a rule ranks U users' pairs.

    hits, pairs [U]: every user's sum of hits (1 where the preferred response has the higher F, ½ where both have the
    same, else 0) and their number of pairs that both sides have an F for. ties: pairs with the same F. unscored: pairs
    without. margin: the median of F(preferred) − F(dispreferred) over pairs where both are finite.
    """

    hits: Float[np.ndarray, "U"]
    pairs: Float[np.ndarray, "U"]
    ties: int
    unscored: int
    margin: float | None

    @property
    def scored(self) -> bool:
        """Whether there is any pair to speak of."""
        return bool(self.pairs.sum())

    @property
    def accuracy(self) -> float:
        """The share of pairs that are ranked as they should be."""
        return float(self.hits.sum() / self.pairs.sum())

    def interval(self, seed: int = 0) -> Interval:
        """The accuracy over all pairs, its interval by the bootstrap over users."""
        has = self.pairs > 0
        return ratio_interval(self.hits[has], self.pairs[has], seed)


def hit(chosen: float, rejected: float) -> float:
    """1, ½ or 0; two impossible responses are a tie."""
    return 0.5 if chosen == rejected else float(chosen > rejected)


def top_one(values: Sequence[float]) -> float:
    """1 if the first of ``values`` is the highest, a share of it if others are as high, else 0."""
    best = max(values)
    return 1 / values.count(best) if values[0] == best else 0.0


def rank(
    values: Sequence[Sequence[float | None]], users: Mapping[str, Sequence[int]]
) -> PairRanking:
    """``values`` are F of every comparison's responses, the preferred one first; ``users`` say whose they are."""
    hits, pairs = np.zeros(len(users)), np.zeros(len(users))
    ties = unscored = 0
    margins: list[float] = []
    for number, places in enumerate(users.values()):
        for place in places:
            chosen, *rejected = values[place]
            for other in rejected:
                if chosen is None or other is None:
                    unscored += 1
                    continue
                hits[number] += hit(chosen, other)
                pairs[number] += 1
                ties += chosen == other
                if math.isfinite(chosen) and math.isfinite(other):
                    margins.append(chosen - other)
    return PairRanking(hits, pairs, ties, unscored, float(np.median(margins)) if margins else None)


def top_one_interval(
    values: Sequence[Sequence[float | None]], users: Mapping[str, Sequence[int]], seed: int = 0
) -> Interval | None:
    """The share of comparisons with several dispreferred responses whose preferred one is the highest of all."""
    hits, counts = np.zeros(len(users)), np.zeros(len(users))
    for number, places in enumerate(users.values()):
        for place in places:
            scored = [value for value in values[place] if value is not None]
            if len(scored) == len(values[place]) > 2:
                hits[number] += top_one(scored)
                counts[number] += 1
    has = counts > 0
    return ratio_interval(hits[has], counts[has], seed) if has.any() else None


@dataclass(frozen=True, slots=True)
class Tau:
    """Kendall's τ-b over ``methods`` with its 95 % interval over users; None where it has no value.

    undefined: resamples without a value, because all methods came out the same; they are left out of the interval.
    """

    value: float | None
    low: float | None
    high: float | None
    methods: int
    undefined: int


def tau_b(x: Float[np.ndarray, "*R M"], y: Float[np.ndarray, "*R M"]) -> Float[np.ndarray, "*R"]:
    """Kendall's τ-b over the last axis; NaN where all of one list are the same.

    Over pairs of methods, Σ sign(x_i − x_j) sign(y_i − y_j) / √(Σ sign² x · Σ sign² y). It takes thousands of resamples
    at once, which is why it is not scipy's, against which it is tested. Raises :class:`~preftilt.errors.BadInput` for
    fewer than three methods, which correlate with anything.
    """
    methods = x.shape[-1]
    if methods < FEWEST_METHODS:
        raise BadInput(f"Kendall's τ needs at least {FEWEST_METHODS} methods, not {methods}")
    i, j = np.triu_indices(methods, 1)
    by_x, by_y = np.sign(x[..., i] - x[..., j]), np.sign(y[..., i] - y[..., j])
    untied = np.abs(by_x).sum(-1) * np.abs(by_y).sum(-1)
    agreeing = (by_x * by_y).sum(-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(agreeing / np.sqrt(untied))


def tau_interval(
    rewards: Sequence[PairRanking], policies: Sequence[PairRanking], seed: int = 0
) -> Tau:
    """τ-b between the methods' accuracies by reward and by policy; users are resampled, the same ones for both."""
    everybody = np.ones((1, len(rewards[0].pairs)))
    [value] = tau_b(_accuracies(rewards, everybody), _accuracies(policies, everybody))
    drawn = weights(len(rewards[0].pairs), seed)
    taus = tau_b(_accuracies(rewards, drawn), _accuracies(policies, drawn))
    known = taus[np.isfinite(taus)]
    low, high = percentile_interval(known).tolist() if known.size else (None, None)
    undefined = int(taus.size - known.size)
    return Tau(None if np.isnan(value) else float(value), low, high, len(rewards), undefined)


def _accuracies(
    side: Sequence[PairRanking], drawn: Float[np.ndarray, "R U"]
) -> Float[np.ndarray, "R M"]:
    """The methods' accuracies if every user counted as often as ``drawn`` says."""
    columns = [
        (drawn @ ranking.hits) / np.maximum(drawn @ ranking.pairs, 1e-300) for ranking in side
    ]
    # Sums in another order differ by rounding; methods that agree on every pair must stay tied.
    return np.round(np.stack(columns, axis=1), 12)
