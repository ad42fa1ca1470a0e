"""Users' questions with their past and what they wrote in the end: plain JSONL, LaMP, LongLaMP, the demo world.

A question is a :class:`~preftilt.eval.accuracy.pairs.Comparison` whose preferred response is what the user wrote; it
need not have a dispreferred one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from preftilt.errors import BadInput
from preftilt.eval.accuracy.formats import ExampleRow, several
from preftilt.eval.accuracy.pairs import Comparison, Example
from preftilt.eval.accuracy.world import world_comparisons
from preftilt.eval.harness.rows import DataRow, json_rows, jsonl_rows, read_bytes
from preftilt.messages import Message, read_messages
from preftilt.records import file_lines, parse_json
from preftilt.records.rows import PreferenceField, read_rows
from preftilt.records.strict import Strict, Visible
from preftilt.types import Preference

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


def read(form: str, source: QuestionSource) -> tuple[Comparison, ...]:
    """The questions of ``source``, which has the form called ``form`` (see :data:`FORMS`)."""
    if form not in FORMS:
        raise BadInput(f"there is no format {form!r}; there are {', '.join(FORMS)}")
    if source.outputs is not None and form != "lamp":
        raise BadInput("--outputs belongs to --format lamp")
    questions = FORMS[form](source)[: source.limit]
    if not questions:
        raise BadInput(f"{source.location} has no questions")
    return questions


class QuestionRow(Strict):
    """A line of ``preftilt behaviour``'s own format; ``rejected`` makes it a pair for discrimination, too."""

    id: Annotated[str, Field(min_length=1)] | int | None = None
    user: Visible
    group: Visible | None = None
    question: Visible | None = None
    messages: Annotated[list[dict[str, str]], Field(min_length=1)] | None = None
    preference: PreferenceField | None = None
    examples: list[ExampleRow] | None = None
    completion: Visible
    rejected: Annotated[list[Visible], BeforeValidator(several)] | None = None

    @model_validator(mode="after")
    def _one_question(self) -> QuestionRow:
        if (self.question is None) == (self.messages is None):
            raise ValueError('one of "question" and "messages" is needed, and not both')
        if self.completion in (self.rejected or ()):
            raise ValueError('"completion" stands in "rejected", too')
        return self

    def comparison(self, line: int, source: str) -> Comparison:
        """The row as a question."""
        stated = self.preference
        return Comparison(
            id=str(line if self.id is None else self.id),
            user=self.user,
            group=self.group or "all",
            messages=(Message("user", self.question),)
            if self.question is not None
            else tuple(read_messages(self.messages)),
            preferences=(Preference(stated.text, stated.strength),) if stated else (),
            chosen=self.completion,
            rejected=tuple(self.rejected or ()),
            examples=tuple(
                Example(example.question, example.response) for example in self.examples or ()
            ),
            place=f"{source}, line {line}",
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
    whole = DataRow(path.name, 0, _object(path))
    task = whole.text("task")
    if task not in LAMP:
        raise whole.wrong("task", f"is {task!r}; ROUGE is for {', '.join(LAMP)}")
    golds = {_text(gold, "id"): gold.text("output") for gold in whole.objects("golds")}
    return tuple(_with_profile(row, golds, LAMP[task]) for row in json_rows(Path(source.location)))


def _with_profile(
    row: DataRow, golds: Mapping[str, str], names: tuple[str | None, str]
) -> Comparison:
    id = _text(row, "id")
    if id not in golds:
        raise row.wrong("id", f"{id!r} has no gold in the file of outputs")
    question = row.text("input")
    return Comparison(
        id=id,
        user=id,
        group="all",
        messages=(Message("user", question),),
        preferences=(),
        chosen=golds[id],
        rejected=(),
        examples=_examples(row, (names,), _instruction(question)),
        place=f"{row.file}, row {row.number}",
    )


def _longlamp(source: QuestionSource) -> tuple[Comparison, ...]:
    """LongLaMP (Kumar et al., 2024): rows of ``input``, ``output`` and ``profile``."""
    path = Path(source.location)
    rows = json_rows(path) if path.suffix == ".json" else jsonl_rows(path)
    return tuple(
        Comparison(
            id=str(row.number),
            user=next(
                (
                    row.text(field)
                    for field in ("reviewerId", "author", "name")
                    if field in row.fields
                ),
                str(row.number),
            ),
            group="all",
            messages=(Message("user", row.text("input")),),
            preferences=(),
            chosen=row.text("output"),
            rejected=(),
            examples=_examples(row, LONGLAMP, ""),
            place=f"{row.file}, row {row.number}",
        )
        for row in rows
    )


def _world(source: QuestionSource) -> tuple[Comparison, ...]:
    if source.location != "demo":
        raise BadInput('the format world reads nothing; call its source "demo"')
    return world_comparisons()


FORMS: dict[str, Callable[[QuestionSource], tuple[Comparison, ...]]] = {
    "users": _users,
    "lamp": _lamp,
    "longlamp": _longlamp,
    "world": _world,
}
"""How a source may be laid out, by the name of ``--format``."""


def _examples(
    row: DataRow, pairs: tuple[tuple[str | None, str], ...], instruction: str
) -> tuple[Example, ...]:
    """A profile's items, in their order, as what was asked and what was written."""
    examples: list[Example] = []
    for past_item in row.objects("profile"):
        for question_field, written in pairs:
            if written in past_item.fields and (
                question_field is None or question_field in past_item.fields
            ):
                question = (
                    WRITE
                    if question_field is None
                    else f"{instruction}{past_item.text(question_field)}"
                )
                examples.append(Example(question, past_item.text(written)))
                break
        else:
            wanted = " or ".join("/".join(filter(None, pair)) for pair in pairs)
            raise past_item.wrong(pairs[0][1], f"is missing; an item of the profile has {wanted}")
    return tuple(examples)


def _instruction(question: str) -> str:
    """What stands before the text that an input is about, as LaMP writes its inputs."""
    head, colon, _ = question.partition(": ")
    return f"{head}: " if colon else ""


def _text(row: DataRow, name: str) -> str:
    value = row.fields.get(name)
    return str(value) if isinstance(value, int) else row.text(name)


def _object(path: Path) -> Mapping[str, object]:
    try:
        whole = parse_json(read_bytes(path))
    except BadInput as failure:
        raise BadInput(f"{path.name}: {failure}") from failure
    if not isinstance(whole, dict):
        raise BadInput(f"{path.name} must hold an object with task and golds")
    return whole
