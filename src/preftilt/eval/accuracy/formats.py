"""Comparisons from files: pairs as JSONL, RewardBench-style rows, HH-RLHF, PrefEval, training pairs, the demo world.

Whatever is wrong with a file is said with its name, the row and the field, before a model is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from preftilt.errors import BadInput
from preftilt.eval.accuracy.pairs import Comparison, Example
from preftilt.eval.accuracy.world import world_comparisons
from preftilt.eval.harness.rows import HUB, DataRow, hub_rows, json_rows, jsonl_rows
from preftilt.eval.prefeval.data import load_items
from preftilt.messages import Message, read_messages
from preftilt.records import file_lines
from preftilt.records.rows import PreferenceField, read_rows
from preftilt.records.strict import Strict, Visible
from preftilt.train.pairs import read_pairs
from preftilt.types import Preference


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSource:
    """What is read: ``source`` is a file, a folder or ``hub:OWNER/NAME``.

    preferences: those of every row, for data that states none. topics: only these (PrefEval). split: of a data set of
    the hub. limit: only so many comparisons, from the first on.
    """

    source: str
    preferences: tuple[Preference, ...] = ()
    topics: tuple[str, ...] = ()
    split: str = "test"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class LoadedComparisons:
    """What was read, and how many rows were no comparisons, by the reason."""

    comparisons: tuple[Comparison, ...]
    left_out: dict[str, int]


def read(form: str, asked: ComparisonSource) -> LoadedComparisons:
    """The comparisons of ``asked.source``, which has the form called ``form`` (see :data:`FORMS`)."""
    if form not in FORMS:
        raise BadInput(f"there is no format {form!r}; there are {', '.join(FORMS)}")
    if asked.topics and form != "prefeval":
        raise BadInput("topics belong to the format prefeval")
    found = FORMS[form](asked)
    if asked.limit is not None:
        found = LoadedComparisons(found.comparisons[: asked.limit], found.left_out)
    if not found.comparisons:
        raise BadInput(f"{asked.source} has no pairs to compare")
    return found


class ExampleRow(Strict):
    """Something the user asked before, and the response they wanted."""

    question: Visible
    response: Visible


def several(value: Any) -> Any:
    """A text as a list of one."""
    return [value] if isinstance(value, str) else value


class PairRow(Strict):
    """A line of ``preftilt policy-accuracy``'s own format; ``rejected`` is a text or a list of texts."""

    id: Annotated[str, Field(min_length=1)] | int | None = None
    user: Visible | None = None
    group: Visible | None = None
    question: Visible | None = None
    messages: Annotated[list[dict[str, str]], Field(min_length=1)] | None = None
    preference: PreferenceField | None = None
    preferences: Annotated[list[PreferenceField], Field(min_length=1)] | None = None
    chosen: Visible
    rejected: Annotated[list[Visible], Field(min_length=1), BeforeValidator(several)]
    examples: list[ExampleRow] | None = None

    @model_validator(mode="after")
    def _one_each(self) -> PairRow:
        if (self.question is None) == (self.messages is None):
            raise ValueError('one of "question" and "messages" is needed, and not both')
        if self.preference and self.preferences:
            raise ValueError('"preference" and "preferences" exclude each other')
        if self.chosen in self.rejected:
            raise ValueError('"chosen" stands in "rejected", too: such a pair has no better side')
        return self

    def comparison(self, line: int, source: str, given: Sequence[Preference]) -> Comparison:
        """The row, with the preferences ``given`` for all rows if it has none."""
        stated = self.preferences or ([self.preference] if self.preference else [])
        if stated and given:
            raise BadInput("the row states a preference, and --preference another; leave one out")
        id = str(line if self.id is None else self.id)
        return Comparison(
            id=id,
            user=self.user or id,
            group=self.group or "all",
            messages=(Message("user", self.question),)
            if self.question is not None
            else tuple(read_messages(self.messages)),
            preferences=tuple(Preference(one.text, one.strength) for one in stated) or tuple(given),
            chosen=self.chosen,
            rejected=tuple(self.rejected),
            examples=tuple(Example(one.question, one.response) for one in self.examples or ()),
            place=f"{source}, line {line}",
        )


def _pairs(asked: ComparisonSource) -> LoadedComparisons:
    found = read_rows(
        file_lines(Path(asked.source)),
        source=asked.source,
        model=PairRow,
        make=lambda row, line: row.comparison(line, asked.source, asked.preferences),
    )
    return LoadedComparisons(tuple(found), {})


def _rewardbench(asked: ComparisonSource) -> LoadedComparisons:
    """Rows of ``prompt``, ``chosen``, ``rejected``, a text or a list of texts each, and ``subset`` and ``id``."""
    found: list[Comparison] = []
    for row in published_rows(asked):
        chosen = _texts(row, "chosen")
        if len(chosen) != 1:
            raise row.wrong("chosen", f"has {len(chosen)} responses; one is compared with the rest")
        id = _id(row)
        found.append(
            Comparison(
                id=id,
                user=id,
                group=row.optional_text("subset") or "all",
                messages=_prompt(row),
                preferences=asked.preferences,
                chosen=chosen[0],
                rejected=_texts(row, "rejected"),
                place=f"{row.file}, row {row.number}",
            )
        )
    return LoadedComparisons(tuple(found), {})


def _hh_rlhf(asked: ComparisonSource) -> LoadedComparisons:
    """Anthropic's HH-RLHF: two conversations a row, as text or as turns; the last turn is what is compared."""
    found: list[Comparison] = []
    differ = 0
    for row in published_rows(asked):
        chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
        if chosen[:-1] != rejected[:-1] or chosen[-1] == rejected[-1]:
            differ += 1
            continue
        found.append(
            Comparison(
                id=_id(row),
                user=_id(row),
                group="all",
                messages=tuple(chosen[:-1]),
                preferences=asked.preferences,
                chosen=chosen[-1].content,
                rejected=(rejected[-1].content,),
                place=f"{row.file}, row {row.number}",
            )
        )
    why = "the conversations differ before their last turn, or not at all"
    return LoadedComparisons(tuple(found), {why: differ} if differ else {})


def _prefeval(asked: ComparisonSource) -> LoadedComparisons:
    """PrefEval's multiple choice: the option that fits the stated preference against the three that do not."""
    if asked.preferences:
        raise BadInput("PrefEval states its own preferences; leave --preference out")
    items = load_items(asked.source, "explicit", topics=asked.topics, options=True)
    found = [
        Comparison(
            id=one.id,
            user=one.id,
            group=one.topic,
            messages=(Message("user", one.question),),
            preferences=(Preference(one.preference),),
            chosen=one.options[0],
            rejected=one.options[1:],
            place=one.id,
        )
        for one in items
    ]
    return LoadedComparisons(tuple(found), {})


def _train(asked: ComparisonSource) -> LoadedComparisons:
    """The pairs that ``preftilt train`` reads: a comparison an objective, in that objective's group."""
    read_from = asked.source.removeprefix(HUB)
    if asked.source.startswith(HUB) and ":" not in read_from:
        read_from = f"{read_from}:{asked.split}"
    found = [
        Comparison(
            id=f"{number}/{objective}",
            user=str(number),
            group=objective,
            messages=pair.messages,
            preferences=asked.preferences,
            chosen=pair.responses[better],
            rejected=(pair.responses[1 - better],),
            place=pair.where,
        )
        for number, pair in enumerate(read_pairs(read_from).pairs, start=1)
        for objective, better in pair.preferred.items()
    ]
    return LoadedComparisons(tuple(found), {})


def _world(asked: ComparisonSource) -> LoadedComparisons:
    if asked.preferences:
        raise BadInput("the demo world's users have their own preferences; leave --preference out")
    if asked.source != "demo":
        raise BadInput('the format world reads nothing; call its source "demo"')
    return LoadedComparisons(world_comparisons(), {})


FORMS: dict[str, Callable[[ComparisonSource], LoadedComparisons]] = {
    "pairs": _pairs,
    "rewardbench": _rewardbench,
    "hh-rlhf": _hh_rlhf,
    "prefeval": _prefeval,
    "train": _train,
    "world": _world,
}
"""How a source may be laid out, by the name of ``--format``."""


def published_rows(asked: ComparisonSource) -> list[DataRow]:
    """The rows of a published file (``.json`` or ``.jsonl``) or data set."""
    if asked.source.startswith(HUB):
        return hub_rows(asked.source.removeprefix(HUB), asked.split)
    path = Path(asked.source)
    return json_rows(path) if path.suffix == ".json" else jsonl_rows(path)


def _id(row: DataRow) -> str:
    given = row.fields.get("id")
    return f"{row.number}" if given is None else f"{row.number}/{given}"


def _prompt(row: DataRow) -> tuple[Message, ...]:
    if isinstance(row.fields.get("prompt"), list):
        return tuple(
            Message(one.text("role"), one.text("content")) for one in row.objects("prompt")
        )
    return (Message("user", row.text("prompt")),)


def _texts(row: DataRow, name: str) -> tuple[str, ...]:
    if isinstance(row.fields.get(name), str):
        return (row.text(name),)
    found = row.texts(name)
    if not found:
        raise row.wrong(name, "is an empty list")
    return found


def _turns(row: DataRow, name: str) -> list[Message]:
    """A conversation that ends with the assistant."""
    if isinstance(row.fields.get(name), str):
        turns = _transcript(row.text(name))
    else:
        turns = [Message(one.text("role"), one.text("content")) for one in row.objects(name)]
    if len(turns) < 2 or turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise row.wrong(name, "must be a conversation whose last turn is the assistant's")
    return turns


def _transcript(text: str) -> list[Message]:
    r"""HH-RLHF's own spelling: turns begin with "\n\nHuman: " or "\n\nAssistant: "."""
    _, *parts = re.split(r"\n\n(Human|Assistant):", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        Message(roles[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
