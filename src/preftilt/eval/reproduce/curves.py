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
    reduction = how.asked({"name": "dvts"}).reward.reduction
    found = {
        f"best-of-{how.n}, {each}": [methods.rear(how.n, lam, each) for lam in LAMBDAS]
        for each in REDUCTIONS
    }
    tree = [methods.trees(lam, reduction) for lam in how.lambdas]
    return found | {f"DVTS 4×4, {reduction}": tree}


def figure_2(sight: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """λ against score, with greedy decoding beside it."""
    return {
        "curves": _curves(sight, over_lambda(how)),
        "greedy": _plain(sight.interval(methods.greedy())),
    }


def figure_3(sight: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """λ against the two parts of the score, log π(a|question) and the preference gain, of the answer that is picked;
    and against the two parts of quality, where the benchmark tells them apart."""
    found: dict[str, Any] = {
        "reward": {
            part: {
                f"best-of-{how.n}, {each}": [
                    _point(lam, _reward(sight, methods.rear(how.n, lam, each), part))
                    for lam in LAMBDAS
                ]
                for each in REDUCTIONS
            }
            for part in ("question", "gain")
        }
    }
    if sight.benchmark.parts is not None:
        found["quality"] = [
            {
                "label": part.label,
                "inverted": part.inverted,
                "curves": _curves(sight, over_lambda(how), part.metric),
            }
            for part in sight.benchmark.parts
        ]
        found["plane"] = _plane(sight, how)
    return found


def figure_4(sight: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """N against score."""
    reduction = how.asked({"name": "dvts"}).reward.reduction
    pool = min(len(one.pool.answers) for one in sight.items if one.pool is not None)
    found = {
        f"BoN-REAR, {reduction}, λ = {lam:g}": [
            _point(n, sight.interval(methods.rear(n, lam, reduction))) for n in sizes(pool)
        ]
        for lam in LAMBDAS_OF_N
    }
    for name in (REWARD_MODEL, *JUDGED):
        curve = [_point(n, sight.interval(methods.rated(name, n))) for n in sizes(min(how.n, pool))]
        if any(one["mean"] is not None for one in curve):
            found[name] = curve
    return {"curves": found, "greedy": _plain(sight.interval(methods.greedy()))}


def figure_5(
    sights: Mapping[int, JudgedItems], compared: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Length of context against score. ``prompts`` are median tokens with the preference."""
    prompts = {
        inserted: float(np.median([one.prompt for one in sight.items if one.prompt]))
        for inserted, sight in sights.items()
        if any(one.prompt for one in sight.items)
    }
    curves = {
        one.label: [_point(inserted, sights[inserted].interval(one)) for inserted in prompts]
        for one in compared
    }
    known = {name: curve for name, curve in curves.items() if any(p["mean"] is not None for p in curve)}  # fmt: skip
    return {"prompts": list(prompts.values()), "inserted": list(prompts), "curves": known}


def figure_6(
    sight: JudgedItems, how: MeasureSettings, shown: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Seconds, and tokens sampled and scored, for an answer by each method that was timed."""
    bars = []
    for one in shown:
        on = sight.measured(one)
        timed = [item.seconds.get(one.timed or "", np.nan) for item in sight.items]
        took = _over_items(sight.items, timed)
        if not on or took is None:
            continue
        spent = [one.spent(item) for item in on]
        bars.append(
            {
                "method": one.label,
                "seconds": _plain(took),
                "sampled": _plain(_over_items(on, [each.sampled for each in spent])),
                "scored": _plain(_over_items(on, [each.scored for each in spent])),
            }
        )
    base = seconds(sight.items, BEST_OF)
    items = sum(bool(one.seconds) for one in sight.items)
    return {"timed items": items, "best_of_n_seconds": base, "bars": bars}


def _plane(sight: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """Every method in the plane of the two parts of quality."""
    assert sight.benchmark.parts is not None
    reduction = how.asked({"name": "dvts"}).reward.reduction
    lines = over_lambda(how)
    alone = [
        methods.greedy(),
        methods.random_of(how.n, how.seed, exact=sight.benchmark.exact),
        *methods.judges(how.n),
        *methods.decoders(),
    ]

    def point(one: ComparedMethod) -> dict[str, Any]:
        x, y = (sight.interval(one, part.metric) for part in sight.benchmark.parts or ())
        return {"name": one.name, "lam": one.lam, "x": _plain(x), "y": _plain(y)}

    return {
        "reduction": reduction,
        "lines": {name: [point(one) for one in members] for name, members in lines.items()},
        "points": [made for one in alone if (made := point(one))["x"]["mean"] is not None],
        "labels": [part.label for part in sight.benchmark.parts],
        "inverted": [part.inverted for part in sight.benchmark.parts],
    }


def curve_of(
    sight: JudgedItems, members: Sequence[ComparedMethod], metric: str | None = None
) -> list[dict[str, Any]]:
    """A method's interval at each of its λ."""
    return [_point(one.lam or 0.0, sight.interval(one, metric)) for one in members]


def _curves(
    sight: JudgedItems, members: Mapping[str, Sequence[ComparedMethod]], metric: str | None = None
) -> dict[str, Any]:
    found = {name: curve_of(sight, each, metric) for name, each in members.items()}
    return {name: curve for name, curve in found.items() if any(p["mean"] is not None for p in curve)}  # fmt: skip


def _reward(sight: JudgedItems, one: ComparedMethod, part: str) -> Interval | None:
    """Mean over items of a part of the score of the answer that is picked (nats, summed over tokens)."""
    lam = 0.0 if part == "question" else float("inf")
    picked = [one.pick(item) for item in sight.items]
    total = Reward(reduction="sum")
    values = [scores(each[:1], lam, total)[0] if each else np.nan for each in picked]
    return _over_items(sight.items, values)


def _over_items(items: Sequence[ItemMeasurements], values: Sequence[float]) -> Interval | None:
    """The mean over items of a value of each repeat."""
    return interval(by_item(items, np.array(values, dtype=np.float64)))


def _point(at: float, found: Interval | None) -> dict[str, Any]:
    return {"at": at, **_plain(found)}


def _plain(found: Interval | None) -> dict[str, Any]:
    return dict.fromkeys(("mean", "low", "high", "n")) if found is None else asdict(found)
