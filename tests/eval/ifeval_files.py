"""S-IFEval's files with rows of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def system_row(key: int, preference: str, question: str, *constraints: tuple[str, Row]) -> Row:
    return {
        "key": key,
        "prompt": f"{question} {preference}",
        "instruction_id_list": [name for name, _ in constraints],
        "kwargs": [arguments for _, arguments in constraints],
        "messages": [
            {"role": "system", "content": preference},
            {"role": "user", "content": question},
        ],
    }


def single_row(question: str, wish: str, constraint: str, arguments: Row) -> Row:
    return {
        "prompt_without_instruction": question,
        "prompt": f"{question} {wish}",
        "instruction_id_list": [constraint],
        "kwargs": [arguments],
    }


def rows(count: int) -> list[Row]:
    """Rows that a text without a comma meets, and one that only a long text can."""
    short = [
        system_row(key, "No commas.", f"What about {key}?", ("punctuation:no_comma", {}))
        for key in range(count)
    ]
    words = ("length_constraints:number_words", {"relation": "at least", "num_words": 300})
    return [*short, system_row(count, "At least 300 words.", "Why?", words)]


def write_ifeval(folder: Path, system: Sequence[Row] | None = None) -> str:
    """A data folder; gives its path."""
    inside = folder / "verifiable"
    inside.mkdir()
    without = [
        single_row(
            f"Q{i}?", 'Leave out "sea".', "keywords:forbidden_words", {"forbidden_words": ["sea"]}
        )
        for i in range(4)
    ]
    within = [
        single_row(f"Q{i}?", 'Say "sea".', "keywords:existence", {"keywords": ["sea"]})
        for i in range(4)
    ]
    files = {
        "sys_ifeval": rows(12) if system is None else system,
        "exclusion_validation": without,
        "inclusion_validation": within,
    }
    for name, content in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (inside / f"{name}.jsonl").write_text(lines, "utf-8")
    return str(folder)
