"""PrefEval's layout with texts of our own: two topics, all forms, inserted turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preftilt.eval.benchmarks.prefeval_data import FILLER_FILE, FOLDERS, OPTIONS_FOLDER, TOPICS

SMALL = ("education_learning_styles", "shop_technology")


def write_prefeval(folder: Path) -> Path:
    """The data folder, with the benchmark's number of rows a topic."""
    root = folder / "prefeval"
    for topic in SMALL:
        rows = [explicit_row(topic, i) for i in range(TOPICS[topic])]
        write(root / FOLDERS["explicit"] / f"{topic}.json", rows)
        write(root / FOLDERS["choice"] / f"{topic}.json", [_choice(one) for one in rows])
        write(root / FOLDERS["persona"] / f"{topic}.json", [_persona(one) for one in rows])
        write(root / OPTIONS_FOLDER / f"{topic}.json", [_options(one) for one in rows])
    write(root / FILLER_FILE, [_filler(first) for first in (0, 4)])
    return root


def explicit_row(topic: str, number: int) -> dict[str, Any]:
    return {
        "preference": f"I avoid thing {number} of {topic}.",
        "question": f"What should I take in case {number} of {topic}?",
        "explanation": "The thing is the usual advice.",
    }


def write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), "utf-8")


def _choice(row: dict[str, Any]) -> dict[str, Any]:
    said = {
        "query": "What else is there?",
        "assistant_options": "There are four: 1, 2, 3 and 4.",
        "user_selection": "I take option 1, the others have the thing in them.",
        "assistant_acknowledgment": "Understood.",
    }
    return {**row, "conversation": said}


def _persona(row: dict[str, Any]) -> dict[str, Any]:
    turns = [("Hello!", "Hello."), ("I keep away from the thing.", "All right."), ("So.", "Yes.")]
    said = {str(i): {"user": user, "assistant": model} for i, (user, model) in enumerate(turns)}
    return {**row, "persona": "a baker", "conversation": said}


def _options(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "classification_task_options": ["Fits.", "Thing 1.", "Thing 2.", "Thing 3."]}


def _filler(first: int) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": f"Filler {first + i}."} for i in range(4)]
    return {"conversation_id": f"c{first}", "conversation": turns}
