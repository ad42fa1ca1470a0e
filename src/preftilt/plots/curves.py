"""Curves and bars with confidence intervals, for every figure of a measurement; they differ in grey as in colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preftilt.plots.style import BLUE, GREEN, INK, PURPLE, QUIET, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LineStyle:
    """Colour, dashes and marker of a curve; the last two differ without colour, too."""

    colour: str
    line: str
    marker: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of spans over ``x``."""

    label: str
    x: Sequence[float]
    spans: Sequence[Estimate]
    look: LineStyle


LINE_STYLES = (
    LineStyle(BLUE, "-", "o"),
    LineStyle(VERMILION, "--", "^"),
    LineStyle(GREEN, "-.", "s"),
    LineStyle(PURPLE, ":", "D"),
    LineStyle(INK, "-", "v"),
    LineStyle("#56b4e9", "--", "P"),
    LineStyle("#a6761d", "-.", "X"),
    LineStyle(QUIET, ":", "<"),
    LineStyle("#882255", "-", "h"),
    LineStyle("#999933", "--", ">"),
)


def line_styles(count: int) -> list[LineStyle]:
    """``count`` line styles; the first 10 differ from each other."""
    return [LINE_STYLES[i % len(LINE_STYLES)] for i in range(count)]


def draw_curves(axes: Axes, curves: Sequence[Curve], *, whiskers: bool = False) -> None:
    """Lines of means with their intervals: as bands, or as whiskers where x are few places and lines are many."""
    for place, curve in enumerate(curves):
        means = [span.mean for span in curve.spans]
        colour, line, marker = curve.look.colour, curve.look.line, curve.look.marker
        if whiskers:
            # Side by side, so that whiskers of lines with the same x can be told apart; x counts places from 1, or
            # the axis is logarithmic.
            step = 0.05 * (place - (len(curves) - 1) / 2)
            log = axes.get_xscale() in ("log", "symlog")
            x = [value * math.exp(step) if log else value + step for value in curve.x]
            axes.errorbar(
                x, means, _reaches(curve.spans), label=curve.label, color=colour, linestyle=line,
                marker=marker, markersize=4.5, elinewidth=0.9, capsize=2, linewidth=1.3,
            )  # fmt: skip
            continue
        axes.plot(
            curve.x, means, label=curve.label, color=colour, linestyle=line, marker=marker,
            markersize=4, linewidth=1.4,
        )  # fmt: skip
        lows, highs = [span.low for span in curve.spans], [span.high for span in curve.spans]
        axes.fill_between(curve.x, lows, highs, color=curve.look.colour, alpha=0.10, linewidth=0)


def draw_bars(axes: Axes, labels: Sequence[str], spans: Sequence[Estimate], colour: str) -> None:
    """Horizontal bars, the first one on top, each with its interval and its number."""
    places = range(len(labels))
    means = [estimate.mean for estimate in spans]
    axes.barh(places, means, color=colour, height=0.62, xerr=_reaches(spans), ecolor=INK, capsize=2)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.16)
    furthest = max((estimate.high for estimate in spans), default=0.0)
    for place, estimate in zip(places, spans, strict=True):
        axes.text(
            estimate.high + 0.015 * furthest, place, plain(estimate.mean), va="center", fontsize=8.5
        )


def level(axes: Axes, value: float, label: str) -> None:
    """A dotted line across, with its name at the right."""
    axes.axhline(value, color=QUIET, linewidth=1, linestyle=":")
    beside = axes.get_yaxis_transform()
    axes.text(1.01, value, label, transform=beside, color=QUIET, va="center", fontsize=9)


def lambda_axis(axes: Axes, lambdas: Sequence[float]) -> None:
    """A logarithmic axis with a tick at every λ; linear around 0 where a λ is not above it."""
    sizes = [abs(lam) for lam in lambdas if lam]
    if min(lambdas, default=1.0) > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=min(sizes, default=1.0))
    axes.set_xticks(lambdas, [f"{lam:g}" for lam in lambdas])
    axes.minorticks_off()
    axes.set_xlabel("λ")


def doubling_axis(axes: Axes, sizes: Sequence[int], label: str) -> None:
    """A logarithmic axis of base 2 with a tick at every size."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel(label)


def plain(value: float) -> str:
    """A number with about three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _reaches(spans: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Error bars: the distances from each mean to the ends of its interval."""
    return (
        [max(0.0, estimate.mean - estimate.low) for estimate in spans],
        [max(0.0, estimate.high - estimate.mean) for estimate in spans],
    )
