"""The style of every figure, and how a figure is opened and saved.

Colours are those of Okabe and Ito, told apart by the colour-blind; shapes and widths tell the same story in grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.errors import BadInput, MissingPackage, PreftiltError

if TYPE_CHECKING:
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
