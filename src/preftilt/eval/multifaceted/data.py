"""Multifaceted Bench's rows, in any of the three forms that it was published in (kaistAI/Janus).

The current one is a list of rows with ``system``, ``prompt``, ``reference_answer`` and ``rubrics``; an older one calls
the last ``rubric``; in the oldest the rows stand in an object under their ids, with ``system_prompt`` and
``user_prompt``. Nothing of it is in this package; its licence is CC BY 4.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preftilt.errors import BadInput
from preftilt.eval.harness.rows import (
    HUB,
    DataRow,
    check_count,
    data_folder,
    hub_rows,
    json_rows,
    jsonl_rows,
    read_bytes,
)
from preftilt.records.parsing import parse_json

FOLDER = "multifaceted_bench"
ROWS = 921
EXAMPLES = {"readme_examples.jsonl": 2}
"""Files with fewer rows than the benchmark: the rows that its page prints."""

RUBRICS = 4
GRADES = ("1", "2", "3", "4", "5")


@dataclass(frozen=True, slots=True)
class Rubric:
    """One criterion with a description of each grade."""

    criteria: str
    descriptions: Mapping[str, str]

    def to_text(self) -> str:
        """As the judge reads it: JSON, indented by 4."""
        shown = {"criteria": self.criteria, "score_descriptions": dict(self.descriptions)}
        return json.dumps(shown, indent=4, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultifacetedItem:
    """One row: ``system`` states the user's wishes, and each of ``rubrics`` grades one of them."""

    id: str
    source: str
    system: str
    prompt: str
    reference: str
    rubrics: tuple[Rubric, ...]


def load_items(data: str) -> tuple[MultifacetedItem, ...]:
    """All items in file order. ``data`` is a folder with one data file, or ``hub:OWNER/NAME``."""
    if data.startswith(HUB):
        rows, file = hub_rows(data.removeprefix(HUB), "train"), data
    else:
        path = _only_file(data_folder(data, FOLDER))
        rows, file = _read(path), path.name
    check_count(rows, file, EXAMPLES.get(file, ROWS))
    return tuple(map(_item, rows))


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
    if len(files) == 1:
        return files[0]
    what = "no data file" if not files else f"several ({', '.join(file.name for file in files)})"
    raise BadInput(
        f"{folder} must hold Multifaceted Bench as one .json or .jsonl file and has {what};"
        " or take it from its hub (-T data=hub:kaist-ai/Multifaceted-Bench)"
    )


def _read(path: Path) -> Sequence[DataRow]:
    if path.suffix == ".jsonl":
        return jsonl_rows(path)
    if not read_bytes(path).lstrip().startswith(b"{"):
        return json_rows(path)
    try:
        by_id = parse_json(read_bytes(path))
    except BadInput as error:
        raise BadInput(f"{path.name}: {error}") from error
    for number, fields in enumerate(by_id.values()):
        if not isinstance(fields, dict):
            raise BadInput(f"{path.name}, row {number}: must be an object")
    return [
        DataRow(path.name, i, {"id": id} | fields) for i, (id, fields) in enumerate(by_id.items())
    ]


def _item(row: DataRow) -> MultifacetedItem:
    old = "system_prompt" in row.fields
    return MultifacetedItem(
        id=row.optional_text("id") or str(row.number),
        source=row.optional_text("original_source" if old else "source") or "",
        system=row.text("system_prompt" if old else "system"),
        prompt=row.text("user_prompt" if old else "prompt"),
        reference=row.text("reference_answer"),
        rubrics=_rubrics(row),
    )


def _rubrics(row: DataRow) -> tuple[Rubric, ...]:
    name = "rubric" if "rubric" in row.fields else "rubrics"
    rubrics = row.objects(name)
    if len(rubrics) != RUBRICS:
        raise row.wrong(name, f"has {len(rubrics)} entries, not {RUBRICS}")
    return tuple(map(_rubric, rubrics))


def _rubric(row: DataRow) -> Rubric:
    described = row.object("score_descriptions")
    return Rubric(row.text("criteria"), {grade: described.text(grade) for grade in GRADES})
