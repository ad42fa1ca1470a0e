"""Choosing λ and the reduction for a task: on validation items, from stored scores, without another model call.

A choice made on few items is itself uncertain, so it is made again on every bootstrap resample of the items. How often
no other option is better there is an option's share of ``wins``: options that tie have all won. The quality of the best
option on the very items that it was chosen on is too good to be true; ``expected`` is what the choice is worth on items
that it has not seen: the choice is made on a resample and measured on the items that the resample left out (Efron and
Tibshirani, 1997).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Int

from preftilt.errors import BadInput
from preftilt.eval.answers import first_by
from preftilt.eval.rated_pools import RatedPool
from preftilt.eval.report import Table, Text, with_interval
from preftilt.eval.report import markdown as document
from preftilt.eval.stats import (
    Compared,
    Interval,
    compare,
    mean_interval,
    percentile_interval,
    weights,
)
from preftilt.plots.curves import LINE_STYLES, Curve, Estimate, draw_curves, lambda_axis
from preftilt.plots.style import VERMILION, picture
from preftilt.reward import Reward, reduced
from preftilt.types import Reduction

LAMBDAS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
MIN_ITEMS = 20
"""With fewer items the intervals are wider than any difference that λ makes."""


@dataclass(frozen=True, slots=True)
class Option:
    """What is chosen among."""

    lam: float
    reduction: Reduction


@dataclass(frozen=True, slots=True)
class OptionResult:
    """An option's quality, the share of resamples in which none is better, and what it has over λ = 1."""

    option: Option
    quality: Interval
    wins: float
    over_plain: Compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The choice, and all options in the order in which ties are broken: by reduction (sum, mean, centred), then λ.

    expected: quality of the choice on items that it was not made on, with the 95 % interval over resamples.
    left_out: items that were not counted, as the quality of one of their candidates is not known.
    """

    chosen: OptionResult
    standings: tuple[OptionResult, ...]
    expected: Interval
    n: int
    items: int
    left_out: int

    def within_reach(self) -> list[OptionResult]:
        """Those that win a twentieth of the resamples or more: the items cannot tell them from the best."""
        return [result for result in self.standings if result.wins >= 0.05]


def calibrate(
    pools: Sequence[RatedPool],
    *,
    lambdas: Sequence[float] = LAMBDAS,
    reductions: Sequence[Reduction] = REDUCTIONS,
    n: int | None = None,
    min_items: int = MIN_ITEMS,
    seed: int = 0,
) -> Calibration:
    """The λ and reduction by which best-of-``n`` has the best mean quality (``n`` None: all candidates).

    λ = 1 is always among the options, for comparison. Raises :class:`~preftilt.errors.BadInput` if there is nothing to
    choose from: too few items, no known qualities, items with fewer than ``n`` or with one candidate only.
    """
    options = options_of(lambdas, reductions)
    rated = [pool for pool in pools if pool.rated]
    size = _size(rated, n, min_items, len(pools) - len(rated))
    values = np.array([_qualities(pool, size, options) for pool in rated])
    return choose(options, values, n=size, left_out=len(pools) - len(rated), seed=seed)


def choose(
    options: Sequence[Option],
    values: Float[np.ndarray, "N K"],
    *,
    n: int,
    left_out: int = 0,
    seed: int = 0,
) -> Calibration:
    """The best of ``options`` (in the order of :func:`options_of`) by the quality that each has on each item."""
    resamples = weights(len(values), seed)
    means = resamples @ values
    winners = means.argmax(axis=1)
    # Equal options must tie, however their sums were rounded.
    best = means >= means.max(axis=1, keepdims=True) - 1e-12

    def compared(column: int) -> Compared:
        plain = options.index(Option(1.0, options[column].reduction))
        comparison = compare(values[:, column], values[:, plain], seed)
        assert comparison is not None
        return comparison

    standings = [
        OptionResult(
            option,
            mean_interval(values[:, column], seed),
            float(best[:, column].mean()),
            compared(column),
        )
        for column, option in enumerate(options)
    ]
    return Calibration(
        chosen=standings[int(values.mean(axis=0).argmax())],
        standings=tuple(standings),
        expected=_out_of_bag(values, resamples, winners),
        n=n,
        items=len(values),
        left_out=left_out,
    )


def options_of(lambdas: Sequence[float], reductions: Sequence[Reduction]) -> list[Option]:
    """What there is to choose among, λ = 1 always, in the order in which ties are broken."""
    if not lambdas or not all(math.isfinite(lam) for lam in lambdas):
        raise BadInput("give finite values of λ to choose from (--lambda 1,3,20)")
    if not reductions:
        raise BadInput(f"give a reduction to choose from: {', '.join(REDUCTIONS)}")
    ordered = sorted({*lambdas, 1.0})
    by_rank = sorted(set(reductions), key=REDUCTIONS.index)
    return [Option(lam, reduction) for reduction in by_rank for lam in ordered]


def _size(rated: Sequence[RatedPool], n: int | None, min_items: int, left_out: int) -> int:
    """How many candidates best-of-n picks from; the same for every item."""
    needed = max(
        2, min_items
    )  # What a choice promises is measured on items that it was not made on.
    if len(rated) < needed:
        lost = f" ({left_out} more have a candidate of unknown quality)" if left_out else ""
        raise BadInput(
            f"the validation split has {len(rated)} items{lost}, and choosing λ needs at least {needed}:"
            " rate more, or lower --min-items and read the interval with care"
        )
    fewest = min(rated, key=lambda pool: len(pool.candidates))
    size = len(fewest.candidates) if n is None else n
    if len(fewest.candidates) < size:
        raise BadInput(
            f"item {fewest.id!r} has {len(fewest.candidates)} candidates, fewer than the {size} of --n"
        )
    if size < 2:
        raise BadInput(
            f"item {fewest.id!r} has one candidate: there is nothing that λ could choose; draw several (--n 16)"
        )
    return size


def _qualities(pool: RatedPool, size: int, options: Sequence[Option]) -> list[float]:
    """The quality of what best-of-``size`` picks by each option; the lines in λ are those of its reduction."""
    candidates = pool.candidates[:size]
    rewards = {
        option.reduction: Reward(reduction=option.reduction, gamma=pool.gamma) for option in options
    }
    lines = {reduction: reduced(candidates, reward) for reduction, reward in rewards.items()}
    qualities: list[float] = []
    for option in options:
        scores = [line.at(option.lam) for line in lines[option.reduction]]
        picked = first_by(candidates, scores, rewards[option.reduction])
        assert picked.quality is not None
        qualities.append(picked.quality)
    return qualities


def _out_of_bag(
    values: Float[np.ndarray, "N K"],
    resamples: Float[np.ndarray, "R N"],
    winners: Int[np.ndarray, "R"],
) -> Interval:
    """Mean and 95 % range, over resamples, of the quality of each one's choice on the items that it left out."""
    absent = resamples == 0
    counts = absent.sum(axis=1)
    totals = np.zeros(len(winners))
    for column in range(values.shape[1]):
        chosen = winners == column
        totals[chosen] = absent[chosen] @ values[:, column]
    # A resample of few items may, once in a blue moon, leave none of them out.
    qualities = totals[counts > 0] / counts[counts > 0]
    low, high = percentile_interval(qualities)
    return Interval(float(qualities.mean()), float(low), float(high), len(values))


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Everything, as plain JSON."""
    return {
        "schema": "preftilt.calibration/1",
        "lambda": calibration.chosen.option.lam,
        "reduction": calibration.chosen.option.reduction,
        **asdict(calibration),
    }


def markdown(calibration: Calibration) -> str:
    """The choice in words, then all options."""
    header = ["λ", "reduction", "quality", "none better in", "Δ λ = 1", "p"]
    rows = [_row(result, calibration.chosen) for result in calibration.standings]
    return document([*map(Text, _words(calibration)), Table(header, rows)])


def _words(calibration: Calibration) -> list[str]:
    chosen = calibration.chosen
    left_out = f"; {calibration.left_out} left out, not fully rated" if calibration.left_out else ""
    near = [result.option.lam for result in (*calibration.within_reach(), chosen)]
    over = chosen.over_plain
    return [
        f"λ = {chosen.option.lam:g}, {chosen.option.reduction}: chosen on {calibration.items} items with"
        f" {calibration.n} candidates each{left_out}.",
        f"Its quality is {with_interval(asdict(chosen.quality))} on these items (95 % bootstrap), and is expected to be"
        f" {with_interval(asdict(calibration.expected))} on others (chosen on resamples, measured on the items they"
        f" left out). None is better in {chosen.wins:.0%} of the resamples; λ from {min(near):g} to {max(near):g}"
        " cannot be told from it.",
        "λ = 1 is the model's own likelihood: no λ did better than that here."
        if chosen.option.lam == 1
        else f"Against λ = 1: {with_interval(asdict(over.difference), '+.3f')} (p = {over.p:.2g}, {over.test},"
        f" uncorrected: the best of {len(calibration.standings)} options was looked for).",
    ]


def _row(result: OptionResult, chosen: OptionResult) -> list[str]:
    mark = "**" if result == chosen else ""
    plain, over = result.option.lam == 1, result.over_plain
    return [
        f"{mark}{result.option.lam:g}{mark}",
        result.option.reduction,
        with_interval(asdict(result.quality)),
        f"{result.wins:.0%}",
        "–" if plain else with_interval(asdict(over.difference), "+.3f"),
        "–" if plain else f"{over.p:.2g}",
    ]


def draw(calibration: Calibration, path: Path) -> None:
    """Two panels over the same λ: quality with its interval, and the share of resamples in which none is better."""
    shown = {
        reduction: [
            result
            for result in calibration.standings
            if result.option.reduction == reduction and result.option.lam > 0
        ]
        for reduction in REDUCTIONS
    }
    with picture(path, width=7.2, height=5.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        draw_curves(above, [_quality(name, rows) for name, rows in shown.items() if rows])
        above.axvline(
            calibration.chosen.option.lam, color=VERMILION, linewidth=0.9, linestyle=(0, (4, 3))
        )
        above.set_ylabel("quality")
        above.legend(loc="best")
        for place, (name, rows) in enumerate((name, rows) for name, rows in shown.items() if rows):
            look = LINE_STYLES[REDUCTIONS.index(name)]
            x = [result.option.lam * (0.92, 1.0, 1.08)[place] for result in rows]
            wins = [100 * result.wins for result in rows]
            below.vlines(x, 0, wins, color=look.colour, linewidth=3)
            below.plot(x, wins, look.marker, color=look.colour, markersize=4)
        below.set_ylabel("none better in (%)")
        below.set_ylim(bottom=0)
        lambda_axis(
            below, sorted({result.option.lam for rows in shown.values() for result in rows})
        )


def _quality(reduction: str, rows: list[OptionResult]) -> Curve:
    return Curve(
        f"best-of-n, {reduction}",
        [result.option.lam for result in rows],
        [Estimate(result.quality.mean, result.quality.low, result.quality.high) for result in rows],
        LINE_STYLES[REDUCTIONS.index(rows[0].option.reduction)],
    )
