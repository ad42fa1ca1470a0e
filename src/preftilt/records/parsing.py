"""A strict JSON parser for input that people wrote, with one clear error for each fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput
from preftilt.messages import check_encodable
from preftilt.records.lines import file_lines

MAX_DIGITS = 300
"""Longer whole numbers than any that a setting takes are refused before they are computed with."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON spells half of a surrogate pair; UTF-8 itself cannot."""


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8; raises :class:`~preftilt.errors.BadInput` for anything JSON does not have.

    Half a surrogate pair, which JSON can spell, is refused wherever it stands, too: no text has it, so that neither a
    tokenizer nor a file or terminal takes it.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig"),
            parse_constant=_no_constant,
            parse_int=_whole,
            object_pairs_hook=_no_repeats,
        )
        if SURROGATE.search(raw):
            for where, text in _texts(value, ""):
                check_encodable(text, where)
    except UnicodeDecodeError as failure:
        raise BadInput(f"not UTF-8 (byte {failure.start + 1})") from None
    except json.JSONDecodeError as failure:
        line = f"line {failure.lineno}, " if failure.lineno > 1 else ""
        raise BadInput(f"not JSON: {failure.msg} ({line}column {failure.colno})") from None
    except RecursionError:
        raise BadInput("its JSON is nested too deeply to be read") from None
    return value


def file_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of people's with one a line, each with its place, for errors; blank lines are left out."""
    for number, raw in enumerate(file_lines(path), start=1):
        if raw.strip():
            where = f"{path.name}, line {number}"
            try:
                fields = parse_json(raw)
            except BadInput as failure:
                raise BadInput(f"{where}: {failure}") from None
            if not isinstance(fields, dict):
                raise BadInput(f"{where}: must be an object")
            yield where, fields


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text within a value, the names of fields too, behind the words that name its place."""
    if isinstance(value, str):
        yield where or "the text", value
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _texts(entry, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield (f"the name of a field of {where}" if where else "the name of a field"), name
            yield from _texts(inner, f"{where}.{name}" if where else name)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadInput(f"a number of {len(digits)} digits is too long; {MAX_DIGITS} are read")
    return int(digits)


def _no_constant(name: str) -> float:
    raise BadInput(f"{name} is not a number that JSON has")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f'the field "{twice}" stands twice')
    return value
