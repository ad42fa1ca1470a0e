"""A report's picture: accuracy over λ, and every method's policy accuracy beside its reward's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.plots.labels import Label, place_labels
from preftilt.plots.style import BLUE, INK, QUIET, VERMILION, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 15.0
"""Points between a method's mark and its name: names are long, and marks stand close together."""

LOOKS = {
    "unnormalised": (BLUE, "-", "o"),
    "policy": (VERMILION, "--", "^"),
    "mean": ("0.45", ":", "s"),
}


Interval = Mapping[str, float]
MethodPoint = tuple[str, Interval, Interval]
"""A method with the accuracies of its reward and of itself."""


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Both panels, or the one that there is something for."""
    both = [(row["rule"], *pair) for row in report["rules"] if (pair := _pair(row))]
    panels = [panel for panel, there in (("sweep", _is_curve(report)), ("methods", both)) if there]
    with picture(path, width=4.9 * len(panels), height=4.0) as figure:
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            if panel == "sweep":
                _sweep(axes, report)
            else:
                _methods(axes, both, report)


def can_draw(report: Mapping[str, Any]) -> bool:
    """Whether there is anything to draw."""
    return _is_curve(report) or any(_pair(row) for row in report["rules"])


def _is_curve(report: Mapping[str, Any]) -> bool:
    """Whether λ was changed at all: a single one makes no curve."""
    return len(report["sweep"]) > 1


def _sweep(axes: Axes, report: Mapping[str, Any]) -> None:
    rows: Sequence[Mapping[str, Any]] = report["sweep"]
    x = list(range(len(rows)))
    for mode in report["modes"]:
        curve = [row["accuracy"][mode] for row in rows]
        if not all(curve):
            continue
        colour, line, marker = LOOKS[mode]
        means, lows, highs = (
            [100 * interval[key] for interval in curve] for key in ("mean", "low", "high")
        )
        axes.plot(x, means, color=colour, linestyle=line, marker=marker, markersize=4, label=mode)
        axes.fill_between(x, lows, highs, color=colour, alpha=0.10, linewidth=0)
    axes.axhline(50, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xticks(x, [f"{row['lambda']:g}" for row in rows])
    axes.set_xlabel("λ")
    axes.set_ylabel("pairs ranked as preferred (%)")
    axes.legend(loc="best")


def _methods(axes: Axes, rows: Sequence[MethodPoint], report: Mapping[str, Any]) -> None:
    labels: list[Label] = []
    for name, reward, policy in rows:
        x, y = 100 * reward["mean"], 100 * policy["mean"]
        across = [[x - 100 * reward["low"]], [100 * reward["high"] - x]]
        up = [[y - 100 * policy["low"]], [100 * policy["high"] - y]]
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", ecolor="0.8", linewidth=1)
        axes.plot(x, y, "o", color=BLUE, markersize=4)
        labels.append(Label(name, x, y, INK, gap=GAP))
    ends = [*axes.get_xlim(), *axes.get_ylim()]
    diagonal = [min(ends), max(ends)]
    axes.plot(diagonal, diagonal, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xlabel("accuracy of the reward (%)")
    axes.set_ylabel("accuracy of the method (%)")
    tau = report["tau"]["own"]
    if tau.get("value") is not None:
        axes.set_title(f"τ-b = {tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]", pad=8)
    name_points(axes, labels)


def name_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the labels of an axes that is drawn otherwise."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    place_labels(figure, axes, labels)


def _pair(row: Mapping[str, Any]) -> tuple[Interval, Interval] | None:
    """A method's accuracies by its reward and in its own mode, if it has both."""
    reward, policy = row["reward_accuracy"], row["accuracy"][row["mode"]]
    return (reward, policy) if reward and policy else None
