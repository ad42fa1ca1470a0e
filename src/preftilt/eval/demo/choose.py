"""Pick answers from records: every method at every λ, N and reduction, without another model call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.eval.demo.collect import LAMBDAS, POOL, Answer, N, Record
from preftilt.eval.stored import best_of
from preftilt.reward import Reward
from preftilt.types import Reduction

SIZES = (1, 2, 4, 8, N, POOL)
Metric = Callable[[Answer], float]
METRICS: dict[str, Metric] = {
    "following": lambda one: float(one.following),
    "helpful": lambda one: float(one.helpful),
    "violates": lambda one: float(one.violates),
    "length": lambda one: float(one.length),
}


@dataclass(frozen=True, slots=True)
class Method:
    """A way to answer: its name, the λ and reduction it uses where it has them, and its draws an answer."""

    name: str
    pick: Callable[[Record], Sequence[Answer]]
    draws: int
    lam: float | None = None
    reduction: Reduction | None = None
    on_trees: bool = False

    def on(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records that this method can be read off: those with trees, for a tree search."""
        return [item for item in records if item.trees] if self.on_trees else records

    def values(self, records: Sequence[Record], metric: str) -> Float[np.ndarray, "N"]:
        """The metric on every item; several picked answers count by their mean (an exact expectation)."""
        measure = METRICS[metric]
        return np.array([np.mean([measure(one) for one in self.pick(item)]) for item in records])


def baselines() -> list[Method]:
    """What REAR has to beat: no choice at all, chance, and the model's own likelihoods."""
    return [
        Method("greedy", lambda item: [item.greedy], 1),
        Method("one sample", lambda item: item.pool[:1], 1),
        Method("random of N", lambda item: item.pool[:N], N),
        best_of_n(0.0, "sum"),
        best_of_n(0.0, "mean"),
        best_of_n(1.0, "sum"),
        best_of_n(1.0, "mean"),
    ]


def best_of_n(lam: float, reduction: Reduction, n: int = N) -> Method:
    """BoN-REAR over the first ``n`` of the pool."""
    reward = Reward(reduction=reduction)
    return Method(
        f"best-of-{n}", lambda item: [best_of(item.pool[:n], lam, reward)], n, lam, reduction
    )


def dvts(lam: float, reduction: Reduction) -> Method:
    """DVTS-REAR, 4 subtrees of width 4."""
    return Method(
        "dvts 4x4",
        lambda item: [item.trees[reduction][str(lam)]],
        N,
        lam,
        reduction,
        on_trees=True,
    )


def oracle() -> Method:
    """The most any choice from the pool could reach: an answer that follows, if one of N does."""
    return Method(
        "any of N (oracle)",
        lambda item: [max(item.pool[:N], key=lambda one: one.following)],
        N,
    )


def tuned(
    family: Callable[[float, Reduction], Method],
    reduction: Reduction,
    validation: Sequence[Record],
) -> Method:
    """The family's member whose λ follows best on the validation records; the smallest λ wins ties."""
    members = [family(lam, reduction) for lam in LAMBDAS]
    return max(members, key=lambda one: one.values(one.on(validation), "following").mean())
