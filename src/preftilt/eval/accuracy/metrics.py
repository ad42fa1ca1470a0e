"""From values of F to accuracies, and from accuracies to Kendall's τ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput
from preftilt.eval.stats import Interval, ratio_interval, weights

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
        return agreeing / np.sqrt(untied)


def tau_interval(
    rewards: Sequence[PairRanking], policies: Sequence[PairRanking], seed: int = 0
) -> Tau:
    """τ-b between the methods' accuracies by reward and by policy; users are resampled, the same ones for both."""
    everybody = np.ones((1, len(rewards[0].pairs)))
    [value] = tau_b(_accuracies(rewards, everybody), _accuracies(policies, everybody))
    drawn = weights(len(rewards[0].pairs), seed)
    taus = tau_b(_accuracies(rewards, drawn), _accuracies(policies, drawn))
    known = taus[np.isfinite(taus)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if known.size else (None, None)
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
