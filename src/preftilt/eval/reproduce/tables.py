"""Rows of tables: every method's numbers with intervals, what it has over the reference, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.eval.bootstrap import Interval, mean_interval
from preftilt.eval.reproduce.benchmark import Benchmark
from preftilt.eval.reproduce.measured import ItemMeasurements
from preftilt.eval.reproduce.methods import ComparedMethod
from preftilt.eval.reproduce.verdicts import Verdicts
from preftilt.eval.significance import Compared, compare


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """A method. ``metrics`` are over the items that it was measured on and has verdicts for: ``items`` of them by the
    headline. Costs are means an answer; ``seconds`` of timed items, answered alone. ``missing``: share of candidates
    that the method has no score for. ``unjudged``: answers without a verdict."""

    method: str
    lam: float | None
    reduction: str | None
    chosen: bool
    oracle: bool
    items: int
    unjudged: int
    metrics: dict[str, Interval]
    over: Compared | None
    length: float
    sampled: float
    scored: float
    judged: float
    judge_calls: float | None
    seconds: float | None
    missing: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class JudgedItems:
    """What numbers are read off: the items as measured, an entry for each repeat, and the verdicts on their answers."""

    benchmark: Benchmark
    items: Sequence[ItemMeasurements]
    verdicts: Verdicts

    def each(self, method: ComparedMethod, metric: str | None = None) -> Float[np.ndarray, "N"]:
        """A metric, the headline if none is named, of every repeat; NaN where there is none."""
        return self.verdicts.values(method, self.items, metric or self.benchmark.headline)

    def values(self, method: ComparedMethod, metric: str | None = None) -> Float[np.ndarray, "I"]:
        """The same of every item."""
        return by_item(self.items, self.each(method, metric))

    def interval(self, method: ComparedMethod, metric: str | None = None) -> Interval | None:
        """The metric's mean over the items that have it; None if none has."""
        return interval(self.values(method, metric))

    def measured(self, method: ComparedMethod) -> list[ItemMeasurements]:
        return [item for item in self.items if method.pick(item)]


def by_item(
    items: Sequence[ItemMeasurements], values: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "I"]:
    """The mean over those repeats of each item that have a number, NaN where none has.

    Repeats of an item are not independent, so it is items that intervals and tests take for what chance draws.
    """
    repeats: dict[str, list[float]] = {}
    for item, value in zip(items, values.tolist(), strict=True):
        repeats.setdefault(item.case.id, []).append(value)
    known = [[value for value in each if np.isfinite(value)] for each in repeats.values()]
    return np.array([np.mean(each) if each else np.nan for each in known], dtype=np.float64)


def interval(values: Float[np.ndarray, "N"]) -> Interval | None:
    """The mean of those that are numbers; None if none is."""
    known = values[np.isfinite(values)]
    return mean_interval(known) if known.size else None


def table(
    judged: JudgedItems, contenders: Sequence[ComparedMethod], reference: ComparedMethod
) -> dict[str, Any]:
    """All methods that were measured, compared with the reference on the items that both have."""
    against = judged.values(reference)
    rows = [_row(judged, method, against, reference) for method in contenders]
    shown = [row.to_json() for row in rows if row is not None]
    compared = sum(row["over"] is not None for row in shown)
    return {"reference": reference.label, "comparisons": compared, "rows": shown}


def _row(
    judged: JudgedItems,
    method: ComparedMethod,
    against: Float[np.ndarray, "N"],
    reference: ComparedMethod,
) -> MethodRow | None:
    """None for a method that was measured on no item."""
    on = judged.measured(method)
    if not on:
        return None
    answers = judged.each(method)
    values = by_item(judged.items, answers)
    metrics = {name: judged.interval(method, name) for name in judged.benchmark.metrics}
    itself = method.label == reference.label
    spent = [method.spent(item) for item in on]
    missed = sum(method.missing(item) for item in on)
    return MethodRow(
        method=method.name,
        lam=method.lam,
        reduction=method.reduction,
        chosen=method.chosen,
        oracle=method.oracle,
        items=int(np.isfinite(values).sum()),
        unjudged=len(on) - int(np.isfinite(answers).sum()),
        metrics={name: value for name, value in metrics.items() if value is not None},
        over=None if itself or method.oracle else compare(values, against),
        length=_mean(on, lambda item: _length(method, item)),
        sampled=float(np.mean([each.sampled for each in spent])),
        scored=float(np.mean([each.scored for each in spent])),
        judged=float(np.mean([each.judged for each in spent])),
        judge_calls=None if judged.benchmark.exact else judged.verdicts.calls(method, on),
        seconds=seconds(judged.items, method.timed),
        missing=missed / sum(_rated(method, item) for item in on),
    )


def seconds(items: Sequence[ItemMeasurements], timed: str | None) -> float | None:
    """Mean seconds for an answer over the timed items; None if there are none."""
    times = [item.seconds[timed] for item in items if timed in item.seconds] if timed else []
    return float(np.mean(times)) if times else None


def _length(method: ComparedMethod, item: ItemMeasurements) -> float:
    return float(np.mean([each.length for each in method.pick(item)]))


def _rated(method: ComparedMethod, item: ItemMeasurements) -> int:
    """Candidates that the method has to have scores for; 1 where it needs none."""
    ratings = item.ratings.get(method.timed or "")
    return 1 if ratings is None else len(ratings.scores)


def _mean(items: Sequence[ItemMeasurements], measure: Callable[[ItemMeasurements], float]) -> float:
    return float(np.mean([measure(item) for item in items]))
