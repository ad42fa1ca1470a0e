"""A calibration for people (Markdown and a picture) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from preftilt.eval.calibrate.choice import REDUCTIONS, Calibration, OptionResult
from preftilt.eval.report import Table, Text, with_interval
from preftilt.eval.report import markdown as document
from preftilt.plots.curves import LINE_STYLES, Curve, Estimate, draw_curves, lambda_axis
from preftilt.plots.style import VERMILION, picture


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
