"""The problems' files: one JSON object a line, a problem and its final answer.

MATH-500 is read as openreasoner/openr publishes it, AIME 2024 and AMC 2023 as
RyanLiu112/compute-optimal-tts does (both MIT). Copies on hubs name the fields a little differently and are read, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from preftilt.eval.harness.rows import HUB, DataRow, check_count, data_folder, hub_rows, jsonl_rows

SetName = Literal["math500", "aime24", "amc23"]

PROBLEMS = ("problem", "question")
ANSWERS = ("final_answer", "extracted_groundtruth", "answer")
"""The names that a field has in the files and on hubs."""


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """A set's file below the data folder (or in it), its number of rows, its usual split on hubs, and how often the
    protocol has each problem answered: a set of few problems several times."""

    folder: str
    file: str
    rows: int
    split: str
    repeats: int = 1


SOURCES: dict[SetName, ProblemSet] = {
    "math500": ProblemSet("math500_openr", "math_500.jsonl", 500, "test"),
    "aime24": ProblemSet("aime24_amc23_computeoptimaltts", "aime24.jsonl", 30, "train", 10),
    "amc23": ProblemSet("aime24_amc23_computeoptimaltts", "amc23.jsonl", 40, "test", 10),
}


@dataclass(frozen=True, slots=True)
class MathsProblem:
    """A problem and its final answer, in LaTeX."""

    id: str
    problem: str
    answer: str


def load_items(data: str, name: SetName, *, split: str | None = None) -> tuple[MathsProblem, ...]:
    """A set's items in file order; ``data`` is a folder or ``hub:OWNER/NAME``, whose ``split`` may be another one."""
    source = SOURCES[name]
    if data.startswith(HUB):
        rows, file = hub_rows(data.removeprefix(HUB), split or source.split), data
    else:
        folder = data_folder(data, "math")
        inner = folder / source.folder
        rows, file = jsonl_rows((inner if inner.is_dir() else folder) / source.file), source.file
    check_count(rows, file, source.rows)
    return tuple(_item(row, name) for row in rows)


def _item(row: DataRow, name: SetName) -> MathsProblem:
    field = _named(row, ANSWERS)
    value = row.fields.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = row.text(field)
    return MathsProblem(
        f"{name}/{row.number}", row.text(_named(row, PROBLEMS)), _written(row, field, value)
    )


def _named(row: DataRow, names: Sequence[str]) -> str:
    """The first of ``names`` that the row has; the first of all, which is then missed, if it has none."""
    return next((name for name in names if name in row.fields), names[0])


def _written(row: DataRow, field: str, value: str | float) -> str:
    """A whole number without a fraction or leading zeros (27.0 is 27, "025" is 25); any other answer as it is."""
    if isinstance(value, str):
        return str(int(value)) if value.isascii() and value.isdecimal() else value
    if value != value // 1:
        raise row.wrong(field, f"is {value}, which is no whole number")
    return str(int(value))
