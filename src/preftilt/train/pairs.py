"""Preference pairs: a prompt, two responses, and which of them each objective prefers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.records import file_lines, parse_json
from preftilt.train.formats import LabelledPair, read_labelled_pair

DEFAULT_OBJECTIVE = "preference"
"""What an objective is called that the data do not name."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """``preferred`` says for each objective that has a verdict which response is better, 0 or 1.

    ``where`` names the file and row, for messages.
    """

    messages: tuple[Message, ...]
    responses: tuple[str, str]
    preferred: Mapping[str, int]
    where: str


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """The pairs of a source, and how many of its rows were left out as invalid."""

    pairs: list[PreferencePair]
    dropped: int


def read_pairs(source: str, *, drop: bool = False) -> LoadedPairs:
    """The pairs of a JSONL file, or of a data set on the hub (``org/name``, ``org/name:split``).

    Three kinds of rows are told apart by their fields (``formats.py``). Raises :class:`~preftilt.errors.BadInput`,
    naming the file, the row and the field, for rows that are none of them, for empty responses and for two that are
    the same; with ``drop`` such rows are left out and counted.
    """
    pairs: list[PreferencePair] = []
    dropped = 0
    for row, where in _rows(source):
        try:
            pairs.append(_pair(row, where))
        except BadInput:
            if not drop:
                raise
            dropped += 1
    if not pairs:
        raise BadInput(f"{source} holds no pairs; give one JSON object on each line")
    return LoadedPairs(pairs, dropped)


def objective_names(pairs: Iterable[PreferencePair]) -> tuple[str, ...]:
    """The objectives that have a verdict somewhere, in the order in which they turn up."""
    return tuple(dict.fromkeys(name for pair in pairs for name in pair.preferred))


def split_pairs(
    pairs: Sequence[PreferencePair], share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and validation pairs; all pairs of a prompt fall on the same side.

    A prompt's side depends on its text and ``seed`` alone, so that adding rows moves none.
    """
    train: list[PreferencePair] = []
    held: list[PreferencePair] = []
    for pair in pairs:
        key = json.dumps([seed, *((message.role, message.content) for message in pair.messages)])
        number = int.from_bytes(sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        (held if number < share * 2**64 else train).append(pair)
    return train, held


def _pair(row: object, where: str) -> PreferencePair:
    try:
        if not isinstance(row, Mapping):
            raise BadInput("a row must be a JSON object")
        choice = read_labelled_pair(row)
        _check_responses(choice)
    except BadInput as failure:
        raise BadInput(f"{where}: {failure}") from None
    preferred = choice.preferred or {choice.objective or DEFAULT_OBJECTIVE: 0}
    return PreferencePair(tuple(choice.messages), choice.responses, preferred, where)


def _check_responses(choice: LabelledPair) -> None:
    for name, text in zip(choice.fields, choice.responses, strict=True):
        if not text.strip():
            raise BadInput(f"{name} is empty; a pair needs two responses with some text")
    if choice.responses[0] == choice.responses[1]:
        raise BadInput(
            f"{choice.fields[0]} and {choice.fields[1]} are the same; nothing can be learned from it"
        )


def _rows(source: str) -> Iterator[tuple[Any, str]]:
    path = Path(source).expanduser()
    if path.is_file():
        yield from _file_rows(path)
    elif path.suffix in (".jsonl", ".json") or path.is_dir() or "/" not in source:
        raise BadInput(f"{source} is no file; give a JSONL file or a data set's id, org/name")
    else:
        from preftilt.train.hub import hub_rows

        yield from hub_rows(source)


def _file_rows(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(file_lines(path), start=1):
        if line.strip():
            where = f"{path}, row {number}"
            try:
                yield parse_json(line), where
            except BadInput as failure:
                raise BadInput(f"{where}: {failure}") from None
