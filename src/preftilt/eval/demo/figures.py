"""The paper's Figures 2, 3 and 4 for the demo world, drawn from a report without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftilt.plots.curves import (
    Curve,
    Estimate,
    LineStyle,
    doubling_axis,
    draw_curves,
    lambda_axis,
    level,
)
from preftilt.plots.style import BLUE, VERMILION, picture

LOOKS = {
    ("best-of-n", "sum"): LineStyle(BLUE, "-", "o"),
    ("best-of-n", "mean"): LineStyle(BLUE, "--", "s"),
    ("dvts", "sum"): LineStyle(VERMILION, "-", "^"),
    ("dvts", "mean"): LineStyle(VERMILION, "--", "D"),
}
"""Colour tells the search, the line and the marker tell the reduction: readable in grey."""

SIZES = {
    "1.0": LineStyle("0.55", ":", "s"),
    "3.0": LineStyle(BLUE, "-", "o"),
    "20.0": LineStyle(VERMILION, "--", "^"),
}


def draw(report: dict[str, Any], out: Path) -> list[Path]:
    """Write the three figures into ``out``; returns their paths."""
    paths = [out / f"{name}.png" for name in ("fig2-lambda", "fig3-parts", "fig4-samples")]
    _figure_2(report, paths[0])
    _figure_3(report, paths[1])
    _figure_4(report, paths[2])
    return paths


def _figure_2(report: dict[str, Any], path: Path) -> None:
    with picture(path, width=7.2, height=4.2) as figure:
        axes = figure.add_subplot()
        draw_curves(axes, _over_lambda(report["sweep"], "following"))
        level(axes, 100 * report["rows"][0]["following"]["mean"], "greedy")
        lambda_axis(axes, report["sweep"]["lambdas"])
        axes.set_ylabel("following (%)")
        axes.legend(loc="best")


def _figure_3(report: dict[str, Any], path: Path) -> None:
    sweep = report["sweep"]
    with picture(path, width=9.2, height=4.0) as figure:
        parts = [("helpful", "helpful (%)", False), ("violates", "preference kept (%)", True)]
        for place, (metric, label, inverted) in enumerate(parts, start=1):
            axes = figure.add_subplot(1, 2, place)
            draw_curves(axes, _over_lambda(sweep, metric, inverted=inverted))
            lambda_axis(axes, sweep["lambdas"])
            axes.set_ylabel(label)
            if place == 1:
                axes.legend(loc="best")


def _figure_4(report: dict[str, Any], path: Path) -> None:
    sweep = report["sweep"]
    curves = [
        Curve(
            f"best-of-N, sum, λ = {float(lam):g}",
            sweep["sizes"],
            [_percent(one) for one in sweep["n"]["sum"][lam]],
            look,
        )
        for lam, look in SIZES.items()
    ]
    with picture(path, width=7.2, height=4.2) as figure:
        axes = figure.add_subplot()
        draw_curves(axes, curves)
        doubling_axis(axes, sweep["sizes"], "samples N")
        axes.set_ylabel("following (%)")
        axes.legend(loc="best")


def _over_lambda(sweep: dict[str, Any], metric: str, *, inverted: bool = False) -> list[Curve]:
    """A metric of every search and reduction over λ, in percent; ``inverted`` shows what it lacks to 100."""
    return [
        Curve(
            f"{search}, {reduction}",
            sweep["lambdas"],
            [_percent(one, inverted) for one in sweep["lambda"][search][reduction][metric]],
            look,
        )
        for (search, reduction), look in LOOKS.items()
    ]


def _percent(interval: dict[str, float], inverted: bool = False) -> Estimate:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return Estimate(100 - mean, 100 - high, 100 - low) if inverted else Estimate(mean, low, high)
