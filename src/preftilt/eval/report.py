"""A report as a list of blocks, how blocks look in Markdown and in HTML, and what stands in cells of tables."""

from __future__ import annotations

import html
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from preftilt.records.lines import write_json, write_text


def cell(text: str) -> str:
    """A text within one cell: a bar or a line break in it begins no other."""
    return re.sub(r"[\r\n]+", " ", text).replace("|", "\\|")


def with_interval(interval: Mapping[str, Any], form: str = ".3f", scale: float = 1.0) -> str:
    """A number (``mean`` or ``value``) with its interval, times ``scale``."""
    names = ("mean" if "mean" in interval else "value", "low", "high")
    value, low, high = (f"{scale * interval[name]:{form}}" for name in names)
    return f"{value} [{low}, {high}]"


def percent(interval: Mapping[str, Any] | None) -> str:
    """A mean with its interval, times 100; a dash where there is none."""
    return "–" if interval is None else with_interval(interval, ".1f", 100)


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``**bold**``, ``*italic*`` and ``code`` in backticks are marked as in Markdown."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are marked like a paragraph; ``caption`` stands above."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file beside the report."""

    file: str
    alt: str


Block = Heading | Text | Table | Picture

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; font-size: 0.9em; }
th, td { border-bottom: 1px solid #ccc; padding: 0.25rem 0.6rem; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #222; }
img { max-width: 100%; }
code { background: #f2f2f2; padding: 0 0.2em; }
"""


def markdown(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown, a blank line between them."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def page(blocks: Sequence[Block], title: str, folder: Path) -> str:
    """The blocks as one page with its pictures in it, from ``folder``."""
    from markdown_it import MarkdownIt

    def data_url(source: re.Match[str]) -> str:
        return (
            f'src="data:image/png;base64,{b64encode((folder / source[1]).read_bytes()).decode()}"'
        )

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = re.sub(r'(?<=<img )src="([^"]+)"', data_url, reader.render(markdown(blocks)))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n{body}</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Text():
            return block.text
        case Picture():
            return f"![{block.alt}]({block.file})"
        case Table():
            lines = [
                "| " + " | ".join(block.header) + " |",
                "|" + "---|" * len(block.header),
                *("| " + " | ".join(cell(text) for text in row) + " |" for row in block.rows),
            ]
            caption = [f"*{block.caption}*", ""] if block.caption else []
            return "\n".join([*caption, *lines])


def write_report(
    numbers: Mapping[str, Any],
    out: Path,
    text: Callable[[str | None], str],
    draw: Callable[[Path], None],
    picture: str | None,
) -> str:
    """``report.json``, ``report.md`` and, where matplotlib is installed, the ``picture`` in ``out``; the Markdown.

    ``text`` makes it, given the picture's name or None without one.
    """
    if picture is not None and find_spec("matplotlib") is None:
        picture = None
    if picture is not None:
        draw(out / picture)
    made = text(picture)
    write_text(out / "report.md", made)
    write_json(out / "report.json", numbers)
    return made
