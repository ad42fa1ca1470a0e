"""PingPong's settings file: eight characters and eight situations a language (IlyaGusev/ping_pong_bench, version 2).

A dialogue is one character in one situation, 64 a language. Nothing of it is in this
package; its licence is Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.rows import HUB, DataRow, data_folder, read_bytes
from preftilt.records.parsing import parse_json

Language = Literal["en", "ru"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

FILE = "settings_v2.json"
COUNT = 8
"""Characters, and situations, of a language."""

MARK = "interrogator_system_prompt_path"
"""A field that the first version's file has not; its numbers in ``version`` do not tell the two apart."""

GREETINGS = ("initial_message", "inital_message", "greeting")
"""How the opening line is spelled; the published code reads the first one alone, so that it misses the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """Who is played. ``greetings`` has the opening line by the field that it stands in."""

    name: str
    system_prompt: str
    example: str | None
    summary: str
    greetings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Situation:
    """What the user is up to, and for how many turns."""

    text: str
    turns: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PingPongItem:
    """One dialogue."""

    id: str
    character: Character
    situation: Situation


def load_items(data: str, language: Language) -> tuple[PingPongItem, ...]:
    """The 64 dialogues of a language, characters in file order and for each all situations; ``data`` is a folder."""
    if data.startswith(HUB):
        raise BadInput(
            f"PingPong's {FILE} is on no hub of data sets; give the folder it is in (-T data=FOLDER)"
        )
    path = data_folder(data, "ping_pong_bench") / FILE
    whole = _parsed(path.name, read_bytes(path))
    own = DataRow(FILE, 0, whole).object(language)
    own.text(MARK)
    characters = [_character(row) for row in _eight(own, "characters")]
    situations = [_situation(row) for row in _eight(own, "situations")]
    return tuple(
        PingPongItem(f"{language}/{i}/{j}", character, situation)
        for i, character in enumerate(characters)
        for j, situation in enumerate(situations)
    )


def _parsed(file: str, raw: bytes) -> dict[str, Any]:
    try:
        whole = parse_json(raw)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error
    if not isinstance(whole, dict):
        raise BadInput(f"{file} must hold an object with languages, not {type(whole).__name__}")
    return whole


def _eight(row: DataRow, name: str) -> tuple[DataRow, ...]:
    rows = row.objects(name)
    if len(rows) != COUNT:
        raise row.wrong(name, f"has {len(rows)} entries, not {COUNT}")
    return rows


def _character(row: DataRow) -> Character:
    said = {name: row.optional_text(name) or "" for name in GREETINGS}
    return Character(
        name=row.text("char_name"),
        system_prompt=row.text("system_prompt"),
        example=row.optional_text("example_prompt") or None,
        summary=row.text("summary"),
        greetings={name: text for name, text in said.items() if text.strip()},
    )


def _situation(row: DataRow) -> Situation:
    turns = row.fields.get("num_turns")
    if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
        raise row.wrong("num_turns", f"must be a whole number from 1, not {turns!r}")
    tags = row.texts("tags") if "tags" in row.fields else ()
    return Situation(row.text("text"), turns, tags)
