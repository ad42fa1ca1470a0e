"""The numbers of a report: rows of tables, and what figures are drawn from at every λ, N or length of context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.eval.answers import scores
from preftilt.eval.calibrate import LAMBDAS, REDUCTIONS, Calibration
from preftilt.eval.harness.benchmark import Benchmark
from preftilt.eval.reproduce import experiments, methods
from preftilt.eval.reproduce.measured import ItemMeasurements
from preftilt.eval.reproduce.methods import LAMBDAS_OF_N, ComparedMethod, over_lambda, sizes
from preftilt.eval.reproduce.parts import BEST_OF, JUDGED, REWARD_MODEL, MeasureSettings
from preftilt.eval.reproduce.verdicts import Verdicts
from preftilt.eval.stats import Interval, compare, mean_interval
from preftilt.reward import Reward


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
    shown = [row for row in rows if row is not None]
    compared = sum(row["over"] is not None for row in shown)
    return {"reference": reference.label, "comparisons": compared, "rows": shown}


def _row(
    judged: JudgedItems,
    method: ComparedMethod,
    against: Float[np.ndarray, "N"],
    reference: ComparedMethod,
) -> dict[str, Any] | None:
    """A method's row; None if it was measured on no item.

    ``metrics`` are over the items that it was measured on and has verdicts for: ``items`` of them by the headline.
    Costs are means an answer; ``seconds`` of timed items, answered alone. ``missing``: share of candidates that the
    method has no score for. ``unjudged``: answers without a verdict.
    """
    on = judged.measured(method)
    if not on:
        return None
    answers = judged.each(method)
    values = by_item(judged.items, answers)
    metrics = {name: judged.interval(method, name) for name in judged.benchmark.metrics}
    over = None
    if method.label != reference.label and not method.oracle:
        over = compare(values, against)
    spent = [method.spent(item) for item in on]
    lengths = [np.mean([answer.length for answer in method.pick(item)]) for item in on]
    ratings = [item.ratings.get(method.timed or "") for item in on]
    # Candidates that the method has to have scores for; 1 where it needs none.
    rated = sum(1 if each is None else len(each.scores) for each in ratings)
    return {
        "method": method.name,
        "lam": method.lam,
        "reduction": method.reduction,
        "chosen": method.chosen,
        "oracle": method.oracle,
        "items": int(np.isfinite(values).sum()),
        "unjudged": len(on) - int(np.isfinite(answers).sum()),
        "metrics": {name: asdict(value) for name, value in metrics.items() if value is not None},
        "over": None if over is None else asdict(over),
        "length": float(np.mean(lengths)),
        **{
            cost: float(np.mean([getattr(each, cost) for each in spent]))
            for cost in ("sampled", "scored", "judged")
        },
        "judge_calls": None if judged.benchmark.exact else judged.verdicts.calls(method, on),
        "seconds": seconds(judged.items, method.timed),
        "missing": sum(method.missing(item) for item in on) / rated,
    }


def seconds(items: Sequence[ItemMeasurements], timed: str | None) -> float | None:
    """Mean seconds for an answer over the timed items; None if there are none."""
    times = [item.seconds[timed] for item in items if timed in item.seconds] if timed else []
    return float(np.mean(times)) if times else None


def figure_2(judged: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """λ against score, with greedy decoding beside it."""
    return {
        "curves": _curves(judged, over_lambda(how)),
        "greedy": _plain(judged.interval(methods.greedy())),
    }


def figure_3(judged: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """λ against the two parts of the score, log π(a|question) and the preference gain, of the answer that is picked;
    and against the two parts of quality, where the benchmark tells them apart."""
    figure: dict[str, Any] = {
        "reward": {
            part: {
                f"best-of-{how.n}, {each}": [
                    _point(lam, _reward(judged, methods.rear(how.n, lam, each), part))
                    for lam in LAMBDAS
                ]
                for each in REDUCTIONS
            }
            for part in ("question", "gain")
        }
    }
    if judged.benchmark.parts is not None:
        figure["quality"] = [
            {
                "label": part.label,
                "inverted": part.inverted,
                "curves": _curves(judged, over_lambda(how), part.metric),
            }
            for part in judged.benchmark.parts
        ]
        figure["plane"] = _plane(judged, how)
    return figure


def figure_4(judged: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """N against score."""
    reduction = how.reduction
    pool = min(len(item.pool.answers) for item in judged.items if item.pool is not None)
    curves = {
        f"BoN-REAR, {reduction}, λ = {lam:g}": [
            _point(n, judged.interval(methods.rear(n, lam, reduction))) for n in sizes(pool)
        ]
        for lam in LAMBDAS_OF_N
    }
    rated = {
        name: [_point(n, judged.interval(methods.rated(name, n))) for n in sizes(min(how.n, pool))]
        for name in (REWARD_MODEL, *JUDGED)
    }
    greedy = _plain(judged.interval(methods.greedy()))
    return {"curves": curves | _measured_curves(rated), "greedy": greedy}


def figure_5(
    judged_by_context: Mapping[int, JudgedItems], compared: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Length of context against score. ``prompts`` are median tokens with the preference."""
    prompts = {
        inserted: float(np.median([item.prompt for item in judged.items if item.prompt]))
        for inserted, judged in judged_by_context.items()
        if any(item.prompt for item in judged.items)
    }
    curves = {
        method.label: [
            _point(inserted, judged_by_context[inserted].interval(method)) for inserted in prompts
        ]
        for method in compared
    }
    return {
        "prompts": list(prompts.values()),
        "inserted": list(prompts),
        "curves": _measured_curves(curves),
    }


def figure_6(
    judged: JudgedItems, how: MeasureSettings, shown: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Seconds, and tokens sampled and scored, for an answer by each method that was timed."""
    bars = []
    for method in shown:
        on = judged.measured(method)
        timed = [item.seconds.get(method.timed or "", np.nan) for item in judged.items]
        took = _over_items(judged.items, timed)
        if not on or took is None:
            continue
        spent = [method.spent(item) for item in on]
        bars.append(
            {
                "method": method.label,
                "seconds": _plain(took),
                "sampled": _plain(_over_items(on, [each.sampled for each in spent])),
                "scored": _plain(_over_items(on, [each.scored for each in spent])),
            }
        )
    base = seconds(judged.items, BEST_OF)
    items = sum(bool(item.seconds) for item in judged.items)
    return {"timed items": items, "best_of_n_seconds": base, "bars": bars}


def _plane(judged: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """Every method in the plane of the two parts of quality."""
    assert judged.benchmark.parts is not None
    reduction = how.reduction
    lines = over_lambda(how)
    alone = [
        methods.greedy(),
        methods.random_of(how.n, how.seed, exact=judged.benchmark.exact),
        *methods.judges(how.n),
        *methods.decoders(),
    ]

    def point(method: ComparedMethod) -> dict[str, Any]:
        x, y = (judged.interval(method, part.metric) for part in judged.benchmark.parts or ())
        return {"name": method.name, "lam": method.lam, "x": _plain(x), "y": _plain(y)}

    return {
        "reduction": reduction,
        "lines": {name: [point(method) for method in members] for name, members in lines.items()},
        "points": [made for method in alone if (made := point(method))["x"]["mean"] is not None],
        "labels": [part.label for part in judged.benchmark.parts],
        "inverted": [part.inverted for part in judged.benchmark.parts],
    }


def curve_of(
    judged: JudgedItems, members: Sequence[ComparedMethod], metric: str | None = None
) -> list[dict[str, Any]]:
    """A method's interval at each of its λ."""
    return [_point(method.lam or 0.0, judged.interval(method, metric)) for method in members]


def _curves(
    judged: JudgedItems, members: Mapping[str, Sequence[ComparedMethod]], metric: str | None = None
) -> dict[str, Any]:
    return _measured_curves(
        {name: curve_of(judged, each, metric) for name, each in members.items()}
    )


def _measured_curves(curves: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Those of the curves that have a number anywhere."""
    return {
        name: curve
        for name, curve in curves.items()
        if any(point["mean"] is not None for point in curve)
    }


def _reward(judged: JudgedItems, method: ComparedMethod, part: str) -> Interval | None:
    """Mean over items of a part of the score of the answer that is picked (nats, summed over tokens)."""
    lam = 0.0 if part == "question" else float("inf")
    picked = [method.pick(item) for item in judged.items]
    total = Reward(reduction="sum")
    values = [scores(each[:1], lam, total)[0] if each else np.nan for each in picked]
    return _over_items(judged.items, values)


def _over_items(items: Sequence[ItemMeasurements], values: Sequence[float]) -> Interval | None:
    """The mean over items of a value of each repeat."""
    return interval(by_item(items, np.array(values, dtype=np.float64)))


def _point(at: float, interval: Interval | None) -> dict[str, Any]:
    return {"at": at, **_plain(interval)}


def _plain(interval: Interval | None) -> dict[str, Any]:
    return dict.fromkeys(("mean", "low", "high", "n")) if interval is None else asdict(interval)


JudgedByContext = Mapping[int, JudgedItems]
"""What is seen at each length of context, by the messages inserted."""


def tables_of(
    names: Sequence[str],
    judged_by_context: JudgedByContext,
    how: MeasureSettings,
    chosen: Sequence[Calibration],
    reference: ComparedMethod,
) -> dict[str, Any]:
    """The tables among the experiments ``names``."""
    judged = judged_by_context[0]

    def contexts() -> list[dict[str, Any]]:
        compared = experiments.table_2(how, chosen)
        return [
            {"inserted": inserted, **table(judged, compared, reference)}
            for inserted, judged in _same_items(judged_by_context).items()
        ]

    every = partial(experiments.table_1, judged.benchmark, how, chosen, judged.verdicts)
    makers: dict[str, Callable[[], Any]] = {
        "table1": lambda: table(judged, every(), reference),
        "table2": contexts,
        "table3": lambda: table(judged, experiments.table_3(how, chosen), reference),
        experiments.AVOIDING: lambda: table(judged, experiments.avoiding(how), reference),
    }
    return {name: make() for name, make in makers.items() if name in names}


def figures_of(
    names: Sequence[str],
    judged_by_context: JudgedByContext,
    how: MeasureSettings,
    chosen: Sequence[Calibration],
) -> dict[str, Any]:
    """What the figures among the experiments ``names`` are drawn from."""
    judged, same = judged_by_context[0], partial(_same_items, judged_by_context)
    makers: dict[str, Callable[[], Any]] = {
        "fig2": lambda: figure_2(judged, how),
        "fig3": lambda: figure_3(judged, how),
        "fig4": lambda: figure_4(judged, how),
        "fig5": lambda: figure_5(same(), experiments.table_2(how, chosen)),
        "fig6": lambda: figure_6(judged, how, experiments.timed(how)),
    }
    return {name: make() for name, make in makers.items() if name in names}


def _same_items(judged_by_context: JudgedByContext) -> JudgedByContext:
    """The items that every length of context was measured on, so that lengths are compared on the same ones."""
    if len(judged_by_context) == 1:
        return judged_by_context
    streams = [
        {item.case.stream for item in judged.items if item.pool}
        for judged in judged_by_context.values()
    ]
    common = set.intersection(*streams)
    return {
        inserted: replace(judged, items=[e for e in judged.items if e.case.stream in common])
        for inserted, judged in judged_by_context.items()
    }


def sureness(items: Sequence[ItemMeasurements]) -> dict[str, float]:
    """Mean probability of Yes and No together at the verdicts of each generative RM: near 1 if it understood."""
    shares: dict[str, list[float]] = {}
    for item in items:
        for name, rating in sorted(item.ratings.items()):
            if rating.sure is not None:
                shares.setdefault(name, []).append(rating.sure)
    return {name: float(np.mean(each)) for name, each in sorted(shares.items())}


def cut_off(items: Sequence[ItemMeasurements]) -> float | None:
    """The share of samples that did not come to their own end; None where none was drawn."""
    drawn = [answer for item in items if item.pool is not None for answer in item.pool.answers]
    return float(np.mean([not answer.finished for answer in drawn])) if drawn else None


def chosen_json(calibration: Calibration) -> dict[str, Any]:
    option = calibration.chosen.option
    return {
        "lambda": option.lam,
        "reduction": option.reduction,
        "items": calibration.items,
        "wins": calibration.chosen.wins,
        "within_reach": [each.option.lam for each in calibration.within_reach()],
        "quality": asdict(calibration.chosen.quality),
        "expected": asdict(calibration.expected),
    }
