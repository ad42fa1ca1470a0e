"""Cells of Markdown tables, whatever a method, a group or a user is called."""

from __future__ import annotations

import re


def cell(text: str) -> str:
    """A text within one cell: a bar or a line break in it begins no other."""
    return re.sub(r"[\r\n]+", " ", text).replace("|", "\\|")
