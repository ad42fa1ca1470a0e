"""What figures are drawn from: a number with its interval at every λ, N or length of context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from preftilt.eval.bootstrap import Interval
from preftilt.eval.calibrate.choice import LAMBDAS, REDUCTIONS
from preftilt.eval.reproduce import methods
from preftilt.eval.reproduce.measured import ItemMeasurements
from preftilt.eval.reproduce.methods import ComparedMethod
from preftilt.eval.reproduce.parts import BEST_OF, JUDGED, REWARD_MODEL, MeasureSettings
from preftilt.eval.reproduce.tables import JudgedItems, by_item, interval, seconds
from preftilt.eval.stored import scores
from preftilt.reward import Reward

LAMBDAS_OF_N = (1.0, 3.0, 20.0)
"""The λ whose curves over N are drawn."""


def sizes(pool: int) -> list[int]:
    """The powers of two up to ``pool``, and ``pool`` itself."""
    return sorted({2**k for k in range(pool.bit_length()) if 2**k <= pool} | {pool})


def over_lambda(how: MeasureSettings) -> dict[str, list[ComparedMethod]]:
    """Every search over λ, by the name of its curve."""
    reduction = how.reduction
    curves = {
        f"best-of-{how.n}, {each}": [methods.rear(how.n, lam, each) for lam in LAMBDAS]
        for each in REDUCTIONS
    }
    tree = [methods.trees(lam, reduction) for lam in how.lambdas]
    return curves | {f"DVTS 4×4, {reduction}": tree}


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
    for name in (REWARD_MODEL, *JUDGED):
        curve = [
            _point(n, judged.interval(methods.rated(name, n))) for n in sizes(min(how.n, pool))
        ]
        if any(point["mean"] is not None for point in curve):
            curves[name] = curve
    return {"curves": curves, "greedy": _plain(judged.interval(methods.greedy()))}


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
    known = {name: curve for name, curve in curves.items() if any(p["mean"] is not None for p in curve)}  # fmt: skip
    return {"prompts": list(prompts.values()), "inserted": list(prompts), "curves": known}


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
    curves = {name: curve_of(judged, each, metric) for name, each in members.items()}
    return {name: curve for name, curve in curves.items() if any(p["mean"] is not None for p in curve)}  # fmt: skip


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
