"""Cells of Markdown tables: names, whatever a method, a group or a user is called, and means with intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping


def cell(text: str) -> str:
    """A text within one cell: a bar or a line break in it begins no other."""
    return re.sub(r"[\r\n]+", " ", text).replace("|", "\\|")


def percent(interval: Mapping[str, float] | None) -> str:
    """A mean with its interval, times 100; a dash where there is none."""
    if interval is None:
        return "–"
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
