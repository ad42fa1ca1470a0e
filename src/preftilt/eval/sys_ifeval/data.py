"""Rows of S-IFEval and of the two sets of single constraints that λ and defaults are chosen on.

``sys_ifeval.jsonl`` (MIT, from the SystemCheck project) is IFEval with its constraints moved into the system message:
``messages`` are a system message, which is the preference, and a user message, which is the question.
``exclusion_validation.jsonl`` and ``inclusion_validation.jsonl`` (MIT, from llm-steer-instruct) have one constraint
each, behind the question in ``prompt``: a word to leave out, or to bring in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from preftilt.eval.harness.rows import HUB, DataRow, data_folder, hub_rows, jsonl_rows
from preftilt.eval.sys_ifeval.checking import check_constraints

FOLDER = "verifiable"
"""The folder of the three files, below the data folder or itself."""

Split = Literal["test", "validation"]

ONE_IN = 3
"""So many rows of S-IFEval there are to each that is kept for validation."""

LONG_WORDS, LONG_SENTENCES = 120, 8
"""From more words or sentences than these on, or any number of paragraphs, an answer cannot be short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysIFEvalItem:
    """One row. ``constraints`` are ids of IFEval's checkers with their arguments; ``prompt`` is IFEval's own, which
    some checkers read. ``opposite`` asks for the words to leave out, where leaving them out is all that is asked."""

    id: str
    question: str
    preference: str
    prompt: str
    constraints: tuple[str, ...]
    arguments: tuple[Mapping[str, Any], ...]
    opposite: str | None = None

    @property
    def can_be_short(self) -> bool:
        """Whether an answer of about 200 tokens can meet all constraints."""
        return not any(map(_asks_for_length, self.constraints, self.arguments))

    @property
    def split(self) -> Split:
        """Which of S-IFEval's rows λ is chosen on: a third, by a hash of the id."""
        return "validation" if sha256(self.id.encode()).digest()[0] % ONE_IN == 0 else "test"


def load_items(data: str, split: str = "train") -> list[SysIFEvalItem]:
    """S-IFEval's rows from a folder, or from the hub (``hub:OWNER/NAME``; ``split`` is the hub's).

    Raises :class:`~preftilt.errors.BadInput` that names file, row and field of what is wrong, and of a constraint that
    the checkers do not know.
    """
    return [_system_row(row) for row in _read(data, "sys_ifeval.jsonl", split)]


def load_single(data: str) -> list[SysIFEvalItem]:
    """The two sets of single constraints, a word to leave out and a word to bring in in turns; from a folder alone."""
    left_out = [_single_row(row) for row in _read(data, "exclusion_validation.jsonl", "")]
    brought_in = [_single_row(row) for row in _read(data, "inclusion_validation.jsonl", "")]
    return [
        item for pair in zip(_mixed(left_out), _mixed(brought_in), strict=True) for item in pair
    ]


def _read(data: str, file: str, split: str) -> Sequence[DataRow]:
    if data.startswith(HUB):
        return hub_rows(data.removeprefix(HUB), split)
    return jsonl_rows(data_folder(data, FOLDER) / file)


def _mixed(items: Sequence[SysIFEvalItem]) -> list[SysIFEvalItem]:
    """In an order that no topic or word leads."""
    return sorted(items, key=lambda item: sha256(item.id.encode()).digest())


def _system_row(row: DataRow) -> SysIFEvalItem:
    messages = row.objects("messages")
    roles = [message.text("role") for message in messages]
    if roles != ["system", "user"]:
        raise row.wrong("messages", f"must be a system and a user message, not {', '.join(roles)}")
    constraints, arguments = _constraints(row)
    forbidden = [
        f"Use the words {', '.join(map(repr, values['forbidden_words']))}."
        for name, values in zip(constraints, arguments, strict=True)
        if name == "keywords:forbidden_words"
    ]
    return SysIFEvalItem(
        id=f"sys-ifeval-{row.fields.get('key', row.number)}",
        question=messages[1].text("content"),
        preference=messages[0].text("content"),
        prompt=row.text("prompt"),
        constraints=constraints,
        arguments=arguments,
        opposite=forbidden[0] if len(constraints) == len(forbidden) == 1 else None,
    )


def _single_row(row: DataRow) -> SysIFEvalItem:
    """A row whose constraint stands behind the question."""
    question, prompt = row.text("prompt_without_instruction"), row.text("prompt")
    if not prompt.startswith(question) or not prompt[len(question) :].strip():
        raise row.wrong("prompt", "must be the question with an instruction behind it")
    constraints, arguments = _constraints(row)
    words = [word for values in arguments for word in values.get("forbidden_words", ())]
    kind = row.file.partition("_")[0]
    return SysIFEvalItem(
        id=f"{kind}-{row.number}",
        question=question,
        preference=prompt[len(question) :].strip(),
        prompt=prompt,
        constraints=constraints,
        arguments=arguments,
        opposite=f"Use the words {', '.join(map(repr, words))}." if words else None,
    )


def _constraints(row: DataRow) -> tuple[tuple[str, ...], tuple[Mapping[str, Any], ...]]:
    constraints = row.texts("instruction_id_list")
    values = row.objects("kwargs")
    if not constraints or len(constraints) != len(values):
        raise row.wrong("kwargs", f"has {len(values)} entries for {len(constraints)} constraints")
    arguments = tuple(
        {name: value for name, value in entry.fields.items() if value is not None}
        for entry in values
    )
    problem = check_constraints(constraints, arguments)
    if problem is not None:
        raise row.wrong("instruction_id_list", problem)
    return constraints, arguments


def _asks_for_length(constraint: str, arguments: Mapping[str, Any]) -> bool:
    match constraint:
        case "length_constraints:number_words":
            return _at_least(arguments) and arguments["num_words"] > LONG_WORDS
        case "length_constraints:number_sentences":
            return _at_least(arguments) and arguments["num_sentences"] > LONG_SENTENCES
        case "length_constraints:number_paragraphs" | "length_constraints:nth_paragraph_first_word":
            return True
        case _:
            return False


def _at_least(arguments: Mapping[str, Any]) -> bool:
    return arguments.get("relation") == "at least"
