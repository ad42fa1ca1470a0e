"""The style of every figure: how one is opened and saved, its colours, and labels that cover no mark, line or label.

Colours are those of Okabe and Ito, told apart by the colour-blind; shapes and widths tell the same story in grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.errors import BadInput, MissingPackage, PreftiltError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK = "#222222"
QUIET = "#6b6b6b"
FAINT = "#9a9a9a"
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#cc79a7"

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 22,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}

FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be drawn, before anything is spent on what it would show."""
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"cannot draw {path}: the name must end in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise MissingPackage('pictures need matplotlib: pip install "preftilt[plots]"')


@contextmanager
def picture(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style (inches), saved to ``path`` when the block ends."""
    check_picture(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        try:
            figure.savefig(path)
        except OSError as failure:
            raise PreftiltError(f"cannot write {path}: {failure.strerror}") from None


def plain_number(value: float) -> str:
    """A number as people write it: a true minus, and ∞."""
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

SIZE = 8.5
"""Of the type, in points."""

LEADER = "#9a9a9a"


@dataclass(frozen=True, slots=True)
class Label:
    """A text for the point (x, y) of the data; ``gap`` points lie between their centres at least."""

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False
    gap: float = 9.0


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write the labels, the first ones nearest to their points. Draw everything else, legends too, before."""
    figure.draw_without_rendering()
    taken = [*_obstacles(axes), *_outside(axes)]
    unit = axes.figure.dpi / 72
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        half = 0.38 * SIZE * len(label.text) * unit, 0.53 * SIZE * unit
        (dx, dy), box = _free_place(x, y, half, label.gap, unit, taken)
        taken.append(box)
        far = math.hypot(dx, dy) > 1.6 * label.gap
        axes.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=SIZE,
            color=label.colour,
            fontweight="bold" if label.bold else "normal",
            arrowprops={"arrowstyle": "-", "color": LEADER, "linewidth": 0.5} if far else None,
            zorder=6,
        )


def _free_place(
    x: float,
    y: float,
    half: tuple[float, float],
    gap: float,
    unit: float,
    taken: Sequence[Box],
) -> tuple[tuple[float, float], Box]:
    """The first offset (points) around (x, y) whose box is free; the first of all if none is."""
    tried: list[tuple[tuple[float, float], Box]] = []
    for dx, dy in _places(gap):
        cx, cy = x + dx * unit, y + dy * unit
        box = (cx - half[0], cy - half[1], cx + half[0], cy + half[1])
        tried.append(((dx, dy), box))
        if not any(_overlap(box, other) for other in taken):
            return tried[-1]
    return tried[0]


def _obstacles(axes: Axes) -> list[Box]:
    """Small boxes (pixels) around every mark and along every line of the plane: where no label may stand."""
    unit = axes.figure.dpi / 72
    boxes: list[Box] = []
    for drawn in axes.lines:
        spots = drawn.get_transform().transform(drawn.get_xydata())
        reach = unit * (4 if len(spots) == 1 else 1.5)
        for (x0, y0), (x1, y1) in pairwise([*spots, spots[-1]]):
            steps = 1 + int(math.hypot(x1 - x0, y1 - y0) / (3 * unit))
            for step in range(steps):
                x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
                boxes.append((x - reach, y - reach, x + reach, y + reach))
    return boxes


def _outside(axes: Axes) -> list[Box]:
    """Left of the plane and below it, where the numbers of the axes stand."""
    box, far = axes.bbox, 1e6
    return [(-far, -far, far, box.y0), (-far, -far, box.x0, far)]


def _places(radius: float) -> Iterator[tuple[float, float]]:
    """Offsets to try, in points: near before far, above before below."""
    for factor in (1.0, 1.5, 2.1, 2.8):
        for degrees in (60, 120, 90, 0, 180, -60, -120, -90, 30, 150, -30, -150):
            angle = math.radians(degrees)
            yield radius * factor * math.cos(angle), radius * factor * math.sin(angle)


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
