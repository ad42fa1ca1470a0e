"""Users' questions with their past and what they wrote in the end: plain JSONL, LaMP, LongLaMP, the demo world.

A question is a :class:`~preftilt.eval.accuracy.comparisons.Comparison` whose preferred response is what the user wrote;
it need not have a dispreferred one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, model_validator

from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import Comparison, Example
from preftilt.eval.accuracy.formats import ConversationRow, several
from preftilt.eval.accuracy.world import world_comparisons
from preftilt.eval.harness.rows import (
    DataRow,
    file_rows,
    json_rows,
    parsed,
    read_bytes,
)
from preftilt.messages import Message
from preftilt.records.lines import file_lines
from preftilt.records.patch import Visible
from preftilt.records.rows import read_rows
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
    golds = {_id(gold): gold.text("output") for gold in golds_file.objects("golds")}
    questions = []
    for row in json_rows(Path(source.location)):
        id, question = _id(row), row.text("input")
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


def _id(row: DataRow) -> str:
    value = row.fields.get("id")
    return str(value) if isinstance(value, int) else row.text("id")
