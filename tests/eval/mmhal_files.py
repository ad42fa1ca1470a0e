"""MMHal-Bench's folder with questions of our own and pictures made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image

from preftilt.eval.benchmarks.mmhal import FILE, FOLDER, ROWS, TYPES


def rows(source: str = "https://example.org") -> list[dict[str, Any]]:
    """As many as the benchmark has, their types in its order."""
    return [
        {
            "question_type": TYPES[i % len(TYPES)],
            "question_topic": "outdoor",
            "image_id": f"id{i}",
            "image_src": f"{source}/pictures/{i}_o.png",
            "image_content": ["Tree", f"Thing {i}"],
            "question": f"What is thing {i}?",
            "gt_answer": f"It is thing {i}.",
            "model_answer": "",
        }
        for i in range(ROWS)
    ]


def write_rows(folder: Path, found: list[dict[str, Any]]) -> str:
    """The folder above the benchmark's own, without pictures."""
    (folder / FOLDER).mkdir(exist_ok=True)
    (folder / FOLDER / FILE).write_text(json.dumps(found), "utf-8")
    return str(folder)


def write_pictures(folder: Path, *, count: int = ROWS) -> None:
    """A small picture a row, each of its own colour."""
    images = folder / FOLDER / "images"
    images.mkdir(parents=True)
    for i in range(count):
        PIL.Image.new("RGB", (8, 8), (2 * i, 0, 255 - i)).save(images / f"id{i}.png")
