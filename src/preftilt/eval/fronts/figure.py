"""The Pareto plane: the mean rewards of every method as α goes from one objective to the other, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preftilt.errors import BadInput
from preftilt.plots.curves import LineStyle, line_styles
from preftilt.plots.style import QUIET, picture


def draw_front(
    report: Mapping[str, Any], path: Path, objectives: tuple[str, str] | None = None
) -> None:
    """Draw two of the report's objectives (its first two by default); needs no model.

    A method is a line through its preference vectors, with a whisker each way at every point; the larger mark is the
    end where only the first objective is asked for. A method that does not look at α is one mark.
    """
    names = report["frame"]["objectives"]
    pair = objectives or tuple(names[:2])
    if unknown := set(pair) - set(names):
        raise BadInput(
            f"the report has no objective {', '.join(unknown)}; it has {', '.join(names)}"
        )
    columns = [names.index(name) for name in pair]
    with picture(path, width=7.6, height=5.2) as figure:
        axes = figure.add_subplot()
        for row, look in zip(report["methods"], line_styles(len(report["methods"])), strict=True):
            _line(axes, row, columns, look)
        axes.set_xlabel(f"{pair[0]} (mean reward)")
        axes.set_ylabel(f"{pair[1]} (mean reward)")
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper")


def _line(axes: Any, row: Mapping[str, Any], columns: list[int], look: LineStyle) -> None:
    means, low, high = (np.array(row[name])[:, columns] for name in ("points", "lows", "highs"))
    if len(np.unique(means, axis=0)) == 1:
        means, low, high = means[:1], low[:1], high[:1]
    reach = np.stack([np.maximum(means - low, 0), np.maximum(high - means, 0)])
    axes.errorbar(
        means[:, 0],
        means[:, 1],
        xerr=reach[:, :, 0],
        yerr=reach[:, :, 1],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=4.5,
        linewidth=1.3,
        elinewidth=0.5,
        label=row["method"],
    )
    first = int(np.argmax(np.array(row["alphas"])[:, columns[0]]))
    if len(means) > 1:
        axes.plot(
            *means[first],
            color=look.colour,
            marker=look.marker,
            markersize=8,
            markeredgecolor=QUIET,
            linestyle="none",
        )
