"""Comparisons and users' questions from files, from the hub and from the demo world.

A question is a comparison whose preferred response is what the user wrote in the end; it need not have a dispreferred
one. Whatever is wrong with a file is said with its name, the row and the field, before a model is opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import Comparison, Example
from preftilt.eval.accuracy.world import world_comparisons
from preftilt.eval.benchmarks.prefeval_data import load_items
from preftilt.eval.harness.rows import (
    HUB,
    DataRow,
    file_rows,
    hub_rows,
    json_rows,
    parsed,
    read_bytes,
)
from preftilt.messages import Message, read_messages
from preftilt.records.lines import file_lines
from preftilt.records.patch import Strict, Visible
from preftilt.records.rows import PreferenceField, read_rows
from preftilt.train.pairs import read_pairs
from preftilt.types import Preference


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSource:
    """What is read: ``location`` is a file, a folder or ``hub:OWNER/NAME``.

    preferences: those of every row, for data that states none. topics: only these (PrefEval). split: of a data set of
    the hub. limit: only so many comparisons, from the first on.
    """

    location: str
    preferences: tuple[Preference, ...] = ()
    topics: tuple[str, ...] = ()
    split: str = "test"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class LoadedComparisons:
    """What was read, and how many rows were no comparisons, by the reason."""

    comparisons: tuple[Comparison, ...]
    left_out: dict[str, int]


def read_comparisons(form: str, source: ComparisonSource) -> LoadedComparisons:
    """The comparisons of ``source``, which has the form called ``form`` (see :data:`FORMS`)."""
    _check_form(form, FORMS)
    if source.topics and form != "prefeval":
        raise BadInput("topics belong to the format prefeval")
    loaded = FORMS[form](source)
    if source.limit is not None:
        loaded = LoadedComparisons(loaded.comparisons[: source.limit], loaded.left_out)
    if not loaded.comparisons:
        raise BadInput(f"{source.location} has no pairs to compare")
    return loaded


def _check_form(form: str, forms: Mapping[str, object]) -> None:
    if form not in forms:
        raise BadInput(f"there is no format {form!r}; there are {', '.join(forms)}")


class ExampleRow(Strict):
    """Something the user asked before, and the response they wanted."""

    question: Visible
    response: Visible


def several(value: Any) -> Any:
    """A text as a list of one."""
    return [value] if isinstance(value, str) else value


class ConversationRow(Strict):
    """What the lines of our own formats have in common: a question or messages, a preference, a past."""

    id: Annotated[str, Field(min_length=1)] | int | None = None
    group: Visible | None = None
    question: Visible | None = None
    messages: Annotated[list[dict[str, str]], Field(min_length=1)] | None = None
    preference: PreferenceField | None = None
    examples: list[ExampleRow] | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ValueError('one of "question" and "messages" is needed, and not both')
        return self

    def common(self, line: int, source: str) -> dict[str, Any]:
        """The fields of a comparison that every format fills alike."""
        said = read_messages(self.messages) if self.question is None else ()
        return {
            "id": str(line if self.id is None else self.id),
            "group": self.group or "all",
            "messages": tuple(said) or (Message("user", self.question or ""),),
            "examples": tuple(
                Example(example.question, example.response) for example in self.examples or ()
            ),
            "place": f"{source}, line {line}",
        }


class PairRow(ConversationRow):
    """A line of ``preftilt policy-accuracy``'s own format; ``rejected`` is a text or a list of texts."""

    user: Visible | None = None
    preferences: Annotated[list[PreferenceField], Field(min_length=1)] | None = None
    chosen: Visible
    rejected: Annotated[list[Visible], Field(min_length=1), BeforeValidator(several)]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if self.preference and self.preferences:
            raise ValueError('"preference" and "preferences" exclude each other')
        if self.chosen in self.rejected:
            raise ValueError('"chosen" stands in "rejected", too: such a pair has no better side')
        return self

    def comparison(self, line: int, source: str, for_all: Sequence[Preference]) -> Comparison:
        """The row, with the preferences ``for_all`` rows if it has none."""
        stated = self.preferences or ([self.preference] if self.preference else [])
        if stated and for_all:
            raise BadInput("the row states a preference, and --preference another; leave one out")
        own = tuple(Preference(preference.text, preference.strength) for preference in stated)
        return Comparison(
            **self.common(line, source),
            user=self.user or "",
            preferences=own or tuple(for_all),
            chosen=self.chosen,
            rejected=tuple(self.rejected),
        )


def _pairs(source: ComparisonSource) -> LoadedComparisons:
    comparisons = read_rows(
        file_lines(Path(source.location)),
        source=source.location,
        model=PairRow,
        make=lambda row, line: row.comparison(line, source.location, source.preferences),
    )
    return LoadedComparisons(tuple(comparisons), {})


def _rewardbench(source: ComparisonSource) -> LoadedComparisons:
    """Rows of ``prompt``, ``chosen``, ``rejected``, a text or a list of texts each, and ``subset`` and ``id``."""
    comparisons: list[Comparison] = []
    for row in published_rows(source):
        chosen = _texts(row, "chosen")
        if len(chosen) != 1:
            raise row.wrong("chosen", f"has {len(chosen)} responses; one is compared with the rest")
        if isinstance(row.fields.get("prompt"), list):
            messages = _conversation(row, "prompt")
        else:
            messages = [Message("user", row.text("prompt"))]
        comparisons.append(
            Comparison(
                id=_id(row),
                group=row.optional_text("subset") or "all",
                messages=tuple(messages),
                preferences=source.preferences,
                chosen=chosen[0],
                rejected=_texts(row, "rejected"),
                place=f"{row.file}, row {row.number}",
            )
        )
    return LoadedComparisons(tuple(comparisons), {})


def _hh_rlhf(source: ComparisonSource) -> LoadedComparisons:
    """Anthropic's HH-RLHF: two conversations a row, as text or as turns; the last turn is what is compared."""
    comparisons: list[Comparison] = []
    differ = 0
    for row in published_rows(source):
        chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
        if chosen[:-1] != rejected[:-1] or chosen[-1] == rejected[-1]:
            differ += 1
            continue
        comparisons.append(
            Comparison(
                id=_id(row),
                messages=tuple(chosen[:-1]),
                preferences=source.preferences,
                chosen=chosen[-1].content,
                rejected=(rejected[-1].content,),
                place=f"{row.file}, row {row.number}",
            )
        )
    why = "the conversations differ before their last turn, or not at all"
    return LoadedComparisons(tuple(comparisons), {why: differ} if differ else {})


def _prefeval(source: ComparisonSource) -> LoadedComparisons:
    """PrefEval's multiple choice: the option that fits the stated preference against the three that do not."""
    if source.preferences:
        raise BadInput("PrefEval states its own preferences; leave --preference out")
    items = load_items(source.location, "explicit", topics=source.topics, options=True)
    comparisons = [
        Comparison(
            id=item.id,
            group=item.topic,
            messages=(Message("user", item.question),),
            preferences=(Preference(item.preference),),
            chosen=item.options[0],
            rejected=item.options[1:],
            place=item.id,
        )
        for item in items
    ]
    return LoadedComparisons(tuple(comparisons), {})


def _train(source: ComparisonSource) -> LoadedComparisons:
    """The pairs that ``preftilt train`` reads: a comparison an objective, in that objective's group."""
    read_from = source.location.removeprefix(HUB)
    if source.location.startswith(HUB) and ":" not in read_from:
        read_from = f"{read_from}:{source.split}"
    comparisons = [
        Comparison(
            id=f"{number}/{objective}",
            user=str(number),
            group=objective,
            messages=pair.messages,
            preferences=source.preferences,
            chosen=pair.responses[better],
            rejected=(pair.responses[1 - better],),
            place=pair.where,
        )
        for number, pair in enumerate(read_pairs(read_from).pairs, start=1)
        for objective, better in pair.preferred.items()
    ]
    return LoadedComparisons(tuple(comparisons), {})


def _world_pairs(source: ComparisonSource) -> LoadedComparisons:
    if source.preferences:
        raise BadInput("the demo world's users have their own preferences; leave --preference out")
    return LoadedComparisons(_world(source.location), {})


def _world(location: str) -> tuple[Comparison, ...]:
    if location != "demo":
        raise BadInput('the format world reads nothing; call its source "demo"')
    return world_comparisons()


FORMS: dict[str, Callable[[ComparisonSource], LoadedComparisons]] = {
    "pairs": _pairs,
    "rewardbench": _rewardbench,
    "hh-rlhf": _hh_rlhf,
    "prefeval": _prefeval,
    "train": _train,
    "world": _world_pairs,
}
"""How a source may be laid out, by the name of ``--format``."""


def published_rows(source: ComparisonSource) -> list[DataRow]:
    """The rows of a published file (``.json`` or ``.jsonl``) or data set."""
    if source.location.startswith(HUB):
        return hub_rows(source.location.removeprefix(HUB), source.split)
    return file_rows(Path(source.location))


def _id(row: DataRow) -> str:
    own_id = row.fields.get("id")
    return f"{row.number}" if own_id is None else f"{row.number}/{own_id}"


def _conversation(row: DataRow, name: str) -> list[Message]:
    return [Message(turn.text("role"), turn.text("content")) for turn in row.objects(name)]


def _texts(row: DataRow, name: str) -> tuple[str, ...]:
    if isinstance(row.fields.get(name), str):
        return (row.text(name),)
    texts = row.texts(name)
    if not texts:
        raise row.wrong(name, "is an empty list")
    return texts


def _turns(row: DataRow, name: str) -> list[Message]:
    """A conversation that ends with the assistant."""
    if isinstance(row.fields.get(name), str):
        # HH-RLHF's own spelling: turns begin with "\n\nHuman: " or "\n\nAssistant: ".
        _, *parts = re.split(r"\n\n(Human|Assistant):", row.text(name))
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(parts[::2], parts[1::2], strict=True)
        turns = [Message(roles[who], said.strip()) for who, said in pairs]
    else:
        turns = _conversation(row, name)
    if len(turns) < 2 or turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise row.wrong(name, "must be a conversation whose last turn is the assistant's")
    return turns


LAMP = {
    "LaMP_4": ("text", "title"),
    "LaMP_5": ("abstract", "title"),
    "LaMP_7": (None, "text"),
}
"""LaMP's tasks with free text for an answer: the fields of a past item that were asked about and written."""

LONGLAMP = (("title", "abstract"), ("summary", "reviewText"), ("summary", "content"))
"""The same of LongLaMP's past items; the first pair that an item has."""

WRITE = "Write a text of yours."
"""What a past item without a question is taken to have been asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSource:
    """What is read. outputs: LaMP's file of true completions. limit: only so many questions."""

    location: str
    outputs: str | None = None
    limit: int | None = None


def read_questions(form: str, source: QuestionSource) -> tuple[Comparison, ...]:
    """The questions of ``source``, which has the form called ``form`` (see :data:`QUESTION_FORMS`)."""
    _check_form(form, QUESTION_FORMS)
    if source.outputs is not None and form != "lamp":
        raise BadInput("--outputs belongs to --format lamp")
    questions = QUESTION_FORMS[form](source)[: source.limit]
    if not questions:
        raise BadInput(f"{source.location} has no questions")
    return questions


class QuestionRow(ConversationRow):
    """A line of ``preftilt behaviour``'s own format; ``rejected`` makes it a pair for discrimination, too."""

    user: Visible
    completion: Visible
    rejected: Annotated[list[Visible], BeforeValidator(several)] | None = None

    @model_validator(mode="after")
    def _better(self) -> Self:
        if self.completion in (self.rejected or ()):
            raise ValueError('"completion" stands in "rejected", too')
        return self

    def comparison(self, line: int, source: str) -> Comparison:
        """The row as a question."""
        stated = self.preference
        return Comparison(
            **self.common(line, source),
            user=self.user,
            preferences=(Preference(stated.text, stated.strength),) if stated else (),
            chosen=self.completion,
            rejected=tuple(self.rejected or ()),
        )


def _users(source: QuestionSource) -> tuple[Comparison, ...]:
    questions = read_rows(
        file_lines(Path(source.location)),
        source=source.location,
        model=QuestionRow,
        make=lambda row, line: row.comparison(line, source.location),
    )
    return tuple(questions)


def _lamp(source: QuestionSource) -> tuple[Comparison, ...]:
    """LaMP (Salemi et al., 2024): questions with profiles, and a file of golds that says which task it is."""
    if source.outputs is None:
        raise BadInput("LaMP's true completions are in a file of their own: give it with --outputs")
    path = Path(source.outputs)
    whole = parsed(path.name, read_bytes(path))
    if not isinstance(whole, dict):
        raise BadInput(f"{path.name} must hold an object with task and golds")
    golds_file = DataRow(path.name, 0, whole)
    task = golds_file.text("task")
    if task not in LAMP:
        raise golds_file.wrong("task", f"is {task!r}; ROUGE is for {', '.join(LAMP)}")
    golds = {_lamp_id(gold): gold.text("output") for gold in golds_file.objects("golds")}
    questions = []
    for row in json_rows(Path(source.location)):
        id, question = _lamp_id(row), row.text("input")
        if id not in golds:
            raise row.wrong("id", f"{id!r} has no gold in the file of outputs")
        # What stands before the text that an input is about, as LaMP writes its inputs, stood before past ones, too.
        head, colon, _ = question.partition(": ")
        instruction = f"{head}: " if colon else ""
        questions.append(_question(row, id, id, golds[id], (LAMP[task],), instruction))
    return tuple(questions)


def _longlamp(source: QuestionSource) -> tuple[Comparison, ...]:
    """LongLaMP (Kumar et al., 2024): rows of ``input``, ``output`` and ``profile``."""
    questions = []
    for row in file_rows(Path(source.location)):
        names = [field for field in ("reviewerId", "author", "name") if field in row.fields]
        user = row.text(names[0]) if names else ""
        questions.append(_question(row, str(row.number), user, row.text("output"), LONGLAMP, ""))
    return tuple(questions)


def _question(
    row: DataRow,
    id: str,
    user: str,
    written: str,
    names: tuple[tuple[str | None, str], ...],
    instruction: str,
) -> Comparison:
    return Comparison(
        id=id,
        user=user,
        messages=(Message("user", row.text("input")),),
        chosen=written,
        examples=_examples(row, names, instruction),
        place=f"{row.file}, row {row.number}",
    )


QUESTION_FORMS: dict[str, Callable[[QuestionSource], tuple[Comparison, ...]]] = {
    "users": _users,
    "lamp": _lamp,
    "longlamp": _longlamp,
    "world": lambda source: _world(source.location),
}
"""How a source may be laid out, by the name of ``--format``."""


def _examples(
    row: DataRow, pairs: tuple[tuple[str | None, str], ...], instruction: str
) -> tuple[Example, ...]:
    """A profile's items, in their order, as what was asked and what was written."""
    examples: list[Example] = []
    for past_item in row.objects("profile"):
        for question_field, written in pairs:
            if {written, question_field or written} <= past_item.fields.keys():
                question = WRITE
                if question_field is not None:
                    question = f"{instruction}{past_item.text(question_field)}"
                examples.append(Example(question, past_item.text(written)))
                break
        else:
            wanted = " or ".join("/".join(filter(None, pair)) for pair in pairs)
            raise past_item.wrong(pairs[0][1], f"is missing; an item of the profile has {wanted}")
    return tuple(examples)


def _lamp_id(row: DataRow) -> str:
    value = row.fields.get("id")
    return str(value) if isinstance(value, int) else row.text("id")
