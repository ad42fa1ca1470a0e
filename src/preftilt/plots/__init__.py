"""Pictures of results. matplotlib is imported when the first one is drawn."""

from preftilt.plots.realigned import plot_realigned
from preftilt.plots.style import check_picture, picture

__all__ = ["check_picture", "picture", "plot_realigned"]
