"""A report's picture: ROUGE of every method, and policy accuracy beside ROUGE-L."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.eval.accuracy.figures import GAP, name_points
from preftilt.eval.behaviour.rouge import METRICS
from preftilt.plots.labels import Label
from preftilt.plots.style import BLUE, INK, QUIET, VERMILION, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {"rouge1": (BLUE, "o"), "rouge2": ("0.45", "s"), "rougeL": (VERMILION, "^")}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """One panel, or two where discrimination was measured."""
    rows = report["methods"]
    both = [row for row in rows if row["policy_accuracy"]]
    panels = 2 if both else 1
    with picture(path, width=4.9 * panels, height=1.6 + 0.35 * max(len(rows), 6)) as figure:
        _scores(figure.add_subplot(1, panels, 1), rows)
        if both:
            _beside(figure.add_subplot(1, panels, 2), both, report)


def _scores(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for offset, (metric, name) in zip((-0.18, 0.0, 0.18), METRICS.items(), strict=True):
        colour, marker = LOOKS[metric]
        intervals = [row["scores"][metric] for row in rows]
        x = [100 * interval["mean"] for interval in intervals]
        across = [
            [100 * (interval["mean"] - interval["low"]) for interval in intervals],
            [100 * (interval["high"] - interval["mean"]) for interval in intervals],
        ]
        y = [place + offset for place in range(len(rows))]
        axes.errorbar(
            x, y, xerr=across, fmt=marker, color=colour, ecolor="0.7", markersize=4, label=name
        )
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("F1 with the user's own words (%)")
    axes.legend(loc="best")


def _beside(axes: Axes, rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    labels: list[Label] = []
    for row in rows:
        x, y = 100 * row["policy_accuracy"]["mean"], 100 * row["scores"]["rougeL"]["mean"]
        axes.plot(x, y, "o", color=BLUE, markersize=4)
        labels.append(Label(row["method"], x, y, INK, gap=GAP))
    axes.margins(x=0.1, y=0.12)
    axes.axvline(50, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xlabel("policy accuracy (%)")
    axes.set_ylabel("ROUGE-L F1 (%)")
    tau = report["tau"].get("rougeL", {})
    if tau.get("value") is not None:
        axes.set_title(f"τ-b = {tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]", pad=8)
    name_points(axes, labels)
