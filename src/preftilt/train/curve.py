"""The picture of a training: loss of every step, and accuracy on validation pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preftilt.plots.style import BLUE, FAINT, INK, VERMILION, picture

SMOOTHING = 0.9
COLOURS = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^Dv<"


def draw_curve(curve: Mapping[str, Any], path: Path) -> None:
    """Draw ``training.json``'s curve; without evaluations there is one panel."""
    steps, evaluations = curve["steps"], curve["evaluations"]
    with picture(path, width=8.0 if evaluations else 4.5, height=3.2) as figure:
        axes = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
        places, losses = [step["step"] for step in steps], [step["loss"] for step in steps]
        axes[0].plot(places, losses, color=FAINT, linewidth=0.8, label="batch")
        axes[0].plot(places, _smooth(losses), color=INK, linewidth=1.6, label="smoothed")
        axes[0].set_title("Loss")
        axes[0].set_xlabel("step")
        axes[0].legend()
        if not evaluations:
            return
        names = dict.fromkeys(
            name for evaluation in evaluations for name in evaluation["accuracies"]
        )
        for index, name in enumerate(names):
            measured = [
                evaluation for evaluation in evaluations if name in evaluation["accuracies"]
            ]
            axes[1].plot(
                [evaluation["step"] for evaluation in measured],
                [100 * evaluation["accuracies"][name] for evaluation in measured],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                color=COLOURS[index % len(COLOURS)],
                label=name,
            )
        axes[1].axhline(50, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes[1].set_title("Validation pairs ranked right (%)")
        axes[1].set_xlabel("step")
        axes[1].legend()


def _smooth(values: list[float]) -> list[float]:
    """An exponential moving average, corrected for its start."""
    averages: list[float] = []
    total, weight = 0.0, 0.0
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        averages.append(total / weight)
    return averages
