"""Preference pairs: a prompt, two responses, and which of them each objective prefers; from a file or the hub.

The kinds of rows are told apart by their fields:

- Ours: ``prompt`` (or ``messages``), ``chosen``, ``rejected`` and perhaps ``objective``; or, for several objectives,
  ``prompt`` (or ``messages``), ``responses`` [2] and ``preferred`` {objective: 0 or 1}. An objective that
  finds both alike is left out of ``preferred``. Other fields are refused, but for ``id`` and ``rewards``, which may
  tell people where a verdict came from.
- HH-RLHF: ``chosen`` and ``rejected`` are whole conversations ("\\n\\nHuman: … \\n\\nAssistant: …").
- PKU-SafeRLHF: ``prompt``, ``response_0``, ``response_1``, ``better_response_id`` and ``safer_response_id``, read as
  verdicts of the objectives ``helpful`` and ``harmless``; its other fields are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput, MissingPackage
from preftilt.messages import Message, check_encodable, check_messages, read_messages
from preftilt.records.lines import file_lines, parse_json


def hub_rows(source: str) -> Iterator[tuple[Any, str]]:
    """The rows of ``org/name`` (its split ``train``) or ``org/name:split``, each with its place in words."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingPackage(
            'data sets from the hub need datasets: pip install "preftilt[train]"'
        ) from None
    name, _, split = source.partition(":")
    split = split or "train"
    try:
        rows = load_dataset(name, split=split)
    except Exception as failure:  # The library raises whatever its HTTP client of the day does.
        first = (str(failure).strip() or repr(failure)).splitlines()[0]
        raise BadInput(
            f"{source} is no file, and the hub does not give out such a data set: {first}"
        ) from None
    for number, row in enumerate(rows, start=1):
        yield row, f"{source}, row {number}"


_OURS = {"prompt", "messages", "chosen", "rejected", "objective", "responses", "preferred"}
_PASSED_OVER = {"id", "rewards"}
_HUMAN, _ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A row of pairs in any of the formats; ``fields`` are the names of its two responses.

    Without ``preferred`` the first response is the better one, for ``objective``.
    """

    messages: Sequence[Message]
    responses: tuple[str, str]
    fields: tuple[str, str]
    objective: str | None = None
    preferred: Mapping[str, int] = field(default_factory=dict)


def read_labelled_pair(row: Mapping[str, Any]) -> LabelledPair:
    """What a row says; raises :class:`~preftilt.errors.BadInput` naming the field at fault.

    A field that is null is one that is not there: tables fill in so what only other rows have.
    """
    row = {name: value for name, value in row.items() if value is not None}
    if "better_response_id" in row or "safer_response_id" in row:
        return _pku(row)
    if {"chosen", "rejected"} <= row.keys() and not {"prompt", "messages"} & row.keys():
        return _hh(row)
    if unknown := sorted(row.keys() - _OURS - _PASSED_OVER):
        raise BadInput(
            f"unknown fields {', '.join(unknown)}; a pair has prompt (or messages), chosen and rejected, or"
            " prompt, responses and preferred"
        )
    return _several(row) if "responses" in row or "preferred" in row else _chosen(row)


def _chosen(row: Mapping[str, Any]) -> LabelledPair:
    responses = (_text(row, "chosen"), _text(row, "rejected"))
    objective = _text(row, "objective") if "objective" in row else None
    return LabelledPair(_messages(row), responses, ("chosen", "rejected"), objective)


def _several(row: Mapping[str, Any]) -> LabelledPair:
    if mixed := sorted({"chosen", "rejected", "objective"} & row.keys()):
        raise BadInput(
            f"{', '.join(mixed)} beside responses and preferred; use one form or the other"
        )
    responses, preferred = row.get("responses"), row.get("preferred")
    if not (
        isinstance(responses, list)
        and len(responses) == 2
        and all(isinstance(response, str) for response in responses)
    ):
        raise BadInput("responses must be a list of two strings")
    if isinstance(preferred, Mapping):
        preferred = {name: index for name, index in preferred.items() if index is not None}
    if not isinstance(preferred, Mapping) or not preferred:
        raise BadInput("preferred must say for at least one objective which response is better")
    for name, index in preferred.items():
        if type(index) is not int or index not in (0, 1):
            raise BadInput(f"preferred.{name} is {index!r}; it must be 0 or 1, the better response")
    for index, text in enumerate(responses):
        check_encodable(text, f"responses[{index}]")
    names = ("responses[0]", "responses[1]")
    return LabelledPair(
        _messages(row), (responses[0], responses[1]), names, preferred=dict(preferred)
    )


def _pku(row: Mapping[str, Any]) -> LabelledPair:
    responses = (_text(row, "response_0"), _text(row, "response_1"))
    verdicts = {"helpful": "better_response_id", "harmless": "safer_response_id"}
    preferred: dict[str, int] = {}
    for objective, name in verdicts.items():
        if row.get(name) not in (0, 1):
            raise BadInput(f"{name} is {row.get(name)!r}; it must be 0 or 1")
        preferred[objective] = int(row[name])
    messages = [Message("user", _text(row, "prompt"))]
    check_messages(messages)
    return LabelledPair(messages, responses, ("response_0", "response_1"), preferred=preferred)


def _hh(row: Mapping[str, Any]) -> LabelledPair:
    chosen, better = _transcript(_text(row, "chosen"), "chosen")
    rejected, worse = _transcript(_text(row, "rejected"), "rejected")
    if chosen != rejected:
        raise BadInput(
            "chosen and rejected are conversations that differ before the last answer; HH-RLHF has some such rows:"
            " leave them out"
        )
    return LabelledPair(chosen, (better, worse), ("chosen", "rejected"))


def _transcript(text: str, name: str) -> tuple[list[Message], str]:
    """The conversation up to the last answer, and that answer."""
    before, mark, answer = text.rpartition(_ASSISTANT.rstrip())
    if not mark or not text.startswith(_HUMAN.rstrip()):
        raise BadInput(
            f"{name} stands without prompt, and is no conversation of the kind '\\n\\nHuman: … \\n\\nAssistant: …'"
        )
    messages: list[Message] = []
    for turn in before.split(_HUMAN.rstrip())[1:]:
        question, *answers = turn.split(_ASSISTANT.rstrip())
        messages.append(Message("user", question.strip()))
        messages += [Message("assistant", reply.strip()) for reply in answers]
    check_messages(messages)
    return messages, answer.strip()


def _messages(row: Mapping[str, Any]) -> list[Message]:
    if ("prompt" in row) == ("messages" in row):
        raise BadInput("give either prompt or messages")
    if "messages" in row:
        return read_messages(row["messages"])
    messages = [Message("user", _text(row, "prompt"))]
    check_messages(messages)
    return messages


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise BadInput(f"{name} is missing; a pair needs both responses")
    if not isinstance(row[name], str):
        raise BadInput(f"{name} must be a string")
    check_encodable(row[name], name)
    return row[name]


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

    Three kinds of rows are told apart by their fields. Raises :class:`~preftilt.errors.BadInput`,
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
        yield from hub_rows(source)


def _file_rows(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(file_lines(path), start=1):
        if line.strip():
            where = f"{path}, row {number}"
            try:
                yield parse_json(line), where
            except BadInput as failure:
                raise BadInput(f"{where}: {failure}") from None
