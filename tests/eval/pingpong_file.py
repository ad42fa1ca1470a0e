"""PingPong's settings file with characters and situations of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preftilt.eval.benchmarks.pingpong import FILE, MARK


def settings_v2() -> dict[str, Any]:
    """Both languages; the first character has an example and a greeting, the second a greeting under another name."""
    return {language: _language(name) for language, name in (("en", "Guard"), ("ru", "Страж"))}


def write_settings(folder: Path, whole: dict[str, Any]) -> str:
    """The data folder above the benchmark's own."""
    (folder / "ping_pong_bench").mkdir(exist_ok=True)
    (folder / "ping_pong_bench" / FILE).write_text(json.dumps(whole), "utf-8")
    return str(folder)


def _language(name: str) -> dict[str, Any]:
    characters: list[dict[str, Any]] = [
        {
            "char_name": f"{name} {i}",
            "system_prompt": f"You guard gate {i}.",
            "summary": f"a guard of gate {i}",
        }
        for i in range(8)
    ]
    characters[0] |= {"example_prompt": "User: hi\nGuard: halt", "initial_message": "Halt!"}
    characters[1] |= {"greeting": "Who goes there?"}
    situations = [
        {"text": f"Do thing {i}.", "num_turns": 8 if i == 7 else 4, "tags": [f"thing_{i}"]}
        for i in range(8)
    ]
    paths = {MARK: "templates/v2/interrogator_system.jinja"}
    return {"characters": characters, "situations": situations, "version": 3, **paths}
