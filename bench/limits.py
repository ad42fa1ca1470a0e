"""Figures with limits: measured part by part, kept as JSON, told as one table."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.report import circumstances, processor

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """values: one a repeat, in ``unit``; most: what their median may be, None where it is there for comparison."""

    title: str
    most: float | None
    unit: str
    values: Sequence[float]

    def cells(self) -> list[str]:
        """The row of the table."""
        median, low, high = statistics.median(self.values), min(self.values), max(self.values)
        spread = "n 1" if len(self.values) == 1 else f"{low:.3g}–{high:.3g}, n {len(self.values)}"
        limit = "–" if self.most is None else f"≤ {self.most:g} {self.unit}"
        return [self.title, limit, f"**{median:.3g} {self.unit}** ({spread})"]


@dataclass(frozen=True, slots=True)
class Part:
    """Figures that were measured together, and the circumstances."""

    facts: dict[str, object]
    figures: Sequence[Figure]


@dataclass(frozen=True, slots=True)
class Table:
    """The parts measured so far, in ``path`` with ``.json`` and ``.md``; one can be measured again without the others.

    names: of all parts, in the table's order.
    """

    path: Path
    title: str
    introduction: str
    names: Sequence[str]

    def add(self, name: str, part: Part) -> None:
        """Write the table with a part that was measured just now."""
        parts = self.parts() | {name: part}
        record = {known: asdict(parts[known]) for known in self.names if known in parts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        self.path.with_suffix(".json").write_text(text, encoding="utf-8")
        self.path.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")

    def parts(self) -> dict[str, Part]:
        """What was measured before, by name."""
        path = self.path.with_suffix(".json")
        saved = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return {
            name: Part(
                saved[name]["facts"], [Figure(**figure) for figure in saved[name]["figures"]]
            )
            for name in self.names
            if name in saved
        }

    def markdown(self) -> str:
        """The table, and what the numbers depend on."""
        parts = self.parts()
        lines = [f"# {self.title}, on {processor()}", "", self.introduction]
        for name, part in parts.items():
            facts = part.facts
            lines += [f"- {name}: `{facts['command']}`, {facts['date']}, load {facts['load_1min']}"]
        cells = [figure.cells() for part in parts.values() for figure in part.figures]
        lines += ["", "| figure | limit | measured |", "|---|---|---|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells), ""])


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Value by value."""
    return [a / b for a, b in zip(above, below, strict=True)]


def measure_parts(
    module: str,
    description: str | None,
    title: str,
    introduction: str,
    parts: Mapping[str, Callable[[Say], list[Figure]]],
) -> None:
    """The command ``python -m bench.MODULE [--parts …] [--out …]``: measure, save after every part, print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=description)
    parser.add_argument("--parts", nargs="+", choices=parts, default=[*parts])
    parser.add_argument("--out", type=Path, default=Path("docs/bench"))
    options = parser.parse_args()
    command = shlex.join(["python", "-m", f"bench.{module}", *sys.argv[1:]])
    path = options.out / module.replace("_", "-")
    table = Table(path, title, introduction, tuple(parts))
    for name in options.parts:
        figures = parts[name](lambda words: print(words, file=sys.stderr, flush=True))
        table.add(name, Part(circumstances("cpu", 0, command), figures))
    print(table.markdown())
