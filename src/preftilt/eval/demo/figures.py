"""The paper's Figures 2, 3 and 4 for the demo world, drawn from a report without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.plots.style import BLUE, QUIET, VERMILION, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {
    ("best-of-n", "sum"): (BLUE, "-", "o"),
    ("best-of-n", "mean"): (BLUE, "--", "s"),
    ("dvts", "sum"): (VERMILION, "-", "^"),
    ("dvts", "mean"): (VERMILION, "--", "D"),
}
"""Colour tells the search, the line and the marker tell the reduction: readable in grey."""


def draw(report: dict[str, Any], out: Path) -> list[Path]:
    """Write the three figures into ``out``; returns their paths."""
    paths = [out / f"{name}.png" for name in ("fig2-lambda", "fig3-parts", "fig4-samples")]
    _figure_2(report, paths[0])
    _figure_3(report, paths[1])
    _figure_4(report, paths[2])
    return paths


def _figure_2(report: dict[str, Any], path: Path) -> None:
    sweep = report["sweep"]
    with picture(path, width=7.2, height=4.2) as figure:
        axes = figure.add_subplot()
        for (search, reduction), look in LINES.items():
            curve = sweep["lambda"][search][reduction]["following"]
            _curve(axes, sweep["lambdas"], curve, look, f"{search}, {reduction}")
        greedy = report["rows"][0]["following"]["mean"]
        axes.axhline(100 * greedy, color=QUIET, linewidth=1, linestyle=":")
        beside = axes.get_yaxis_transform()
        axes.text(1.01, 100 * greedy, "greedy", transform=beside, color=QUIET, va="center")
        _lambda_axis(axes, sweep["lambdas"])
        axes.set_ylabel("following (%)")
        axes.legend(loc="best")


def _figure_3(report: dict[str, Any], path: Path) -> None:
    sweep = report["sweep"]
    with picture(path, width=9.2, height=4.0) as figure:
        parts = [("helpful", "helpful (%)", False), ("violates", "preference kept (%)", True)]
        for place, (metric, label, inverted) in enumerate(parts, start=1):
            axes = figure.add_subplot(1, 2, place)
            for (search, reduction), look in LINES.items():
                curve = sweep["lambda"][search][reduction][metric]
                shown = [_complement(one) for one in curve] if inverted else curve
                _curve(axes, sweep["lambdas"], shown, look, f"{search}, {reduction}")
            _lambda_axis(axes, sweep["lambdas"])
            axes.set_ylabel(label)
            if place == 1:
                axes.legend(loc="best")


def _figure_4(report: dict[str, Any], path: Path) -> None:
    sweep = report["sweep"]
    shades = {"1.0": ("0.55", ":", "s"), "3.0": (BLUE, "-", "o"), "20.0": (VERMILION, "--", "^")}
    with picture(path, width=7.2, height=4.2) as figure:
        axes = figure.add_subplot()
        for lam, look in shades.items():
            curve = sweep["n"]["sum"][lam]
            _curve(axes, sweep["sizes"], curve, look, f"best-of-N, sum, λ = {float(lam):g}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sweep["sizes"], [str(n) for n in sweep["sizes"]])
        axes.minorticks_off()
        axes.set_xlabel("samples N")
        axes.set_ylabel("following (%)")
        axes.legend(loc="best")


def _curve(
    axes: Axes,
    x: list[float],
    curve: list[dict[str, float]],
    look: tuple[str, str, str],
    label: str,
) -> None:
    """A line of means with its 95 % band, in percent."""
    colour, line, marker = look
    means, lows, highs = ([100 * one[key] for one in curve] for key in ("mean", "low", "high"))
    axes.plot(x, means, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
    axes.fill_between(x, lows, highs, color=colour, alpha=0.10, linewidth=0)


def _lambda_axis(axes: Axes, lambdas: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(lambdas, [f"{lam:g}" for lam in lambdas])
    axes.minorticks_off()
    axes.set_xlabel("λ")


def _complement(interval: dict[str, float]) -> dict[str, float]:
    return {
        "mean": 1 - interval["mean"],
        "low": 1 - interval["high"],
        "high": 1 - interval["low"],
    }
