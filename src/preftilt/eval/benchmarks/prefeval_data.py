"""PrefEval's files: one JSON list a topic and form, the same items by index in all of them (amazon-science/PrefEval).

The layout is that of its repository's ``benchmark_dataset`` folder. Nothing of it is in this package: it is under
CC BY-NC 4.0, the inserted conversations under the terms of LMSYS-Chat-1M.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.rows import HUB, DataRow, check_count, data_folder, hub_rows, json_rows
from preftilt.messages import Message

Form = Literal["explicit", "choice", "persona"]
"""How the preference came up: stated, shown by a choice among four options, or said in passing in a longer chat."""

FORMS: tuple[Form, ...] = get_args(Form)

FOLDERS: dict[Form, str] = {
    "explicit": "explicit_preference",
    "choice": "implicit_preference/choice-based",
    "persona": "implicit_preference/persona-driven",
}
OPTIONS_FOLDER = "mcq_options"
FILLER_FILE = "filtered_inter_turns.json"

TOPICS = {
    "education_learning_styles": 31, "education_resources": 54, "entertain_games": 51, "entertain_music_book": 56,
    "entertain_shows": 62, "entertain_sports": 52, "lifestyle_beauty": 53, "lifestyle_dietary": 57,
    "lifestyle_fit": 52, "lifestyle_health": 49, "pet_ownership": 43, "professional_work_location_style": 36,
    "shop_fashion": 54, "shop_home": 56, "shop_motors": 45, "shop_technology": 35, "travel_activities": 58,
    "travel_hotel": 54, "travel_restaurant": 56, "travel_transportation": 46,
}  # fmt: skip
"""Rows a topic, in every form."""

OPTIONS = 4
"""Options of a multiple-choice question; the first one in the files is the one that fits the preference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefEvalItem:
    """One row: ``history`` is the conversation that shows the preference (none where it is stated).

    ``options`` are those of the multiple-choice task, the fitting one first; empty if it was not asked for.
    """

    id: str
    topic: str
    preference: str
    question: str
    history: tuple[Message, ...] = ()
    options: tuple[str, ...] = ()


def load_items(
    data: str, form: Form, *, topics: Sequence[str] = (), options: bool = False
) -> tuple[PrefEvalItem, ...]:
    """The items of ``topics`` (all that are there, if none is named), in alphabetical and file order.

    ``data`` is a folder, or ``hub:OWNER/NAME`` for a data set with the same fields, and ``topic`` if there are several.
    """
    unknown = [topic for topic in topics if topic not in TOPICS]
    if unknown:
        raise BadInput(f"PrefEval has no topic {unknown[0]!r}; it has {', '.join(TOPICS)}")
    if data.startswith(HUB):
        # A data set has one row an item; its options, where they are asked for, stand in the same row.
        rows = [
            (row.optional_text("topic") or "all", row)
            for row in hub_rows(data.removeprefix(HUB), "train")
        ]
        return tuple(
            _item(row, form, topic, row if options else None)
            for topic, row in rows
            if not topics or topic in topics
        )
    folder = data_folder(data, "prefeval")
    chosen = topics or [
        topic for topic in TOPICS if (folder / FOLDERS[form] / f"{topic}.json").exists()
    ]
    if not chosen:
        raise BadInput(
            f"{folder / FOLDERS[form]} has no topic of PrefEval ({next(iter(TOPICS))}.json, …); give its"
            " benchmark_dataset folder (-T data=FOLDER)"
        )
    return tuple(item for topic in chosen for item in _topic(folder, form, topic, options))


def load_filler(data: str) -> tuple[Message, ...]:
    """The messages that are inserted before the question, conversations in file order, user and assistant in turns."""
    rows = json_rows(data_folder(data, "prefeval") / FILLER_FILE)
    messages: list[Message] = []
    for row in rows:
        for turn in row.objects("conversation"):
            role = turn.text("role")
            expected = ("user", "assistant")[len(messages) % 2]
            if role != expected:
                raise turn.wrong("role", f"is {role!r} where it is the {expected}'s turn")
            messages.append(Message(role, turn.text("content")))
    return tuple(messages)


def _topic(folder: Path, form: Form, topic: str, options: bool) -> list[PrefEvalItem]:
    rows = json_rows(folder / FOLDERS[form] / f"{topic}.json")
    check_count(rows, f"{FOLDERS[form]}/{topic}.json", TOPICS[topic])
    if not options:
        return [_item(row, form, topic) for row in rows]
    choices = json_rows(folder / OPTIONS_FOLDER / f"{topic}.json")
    check_count(choices, f"{OPTIONS_FOLDER}/{topic}.json", TOPICS[topic])
    return [_item(row, form, topic, choice) for row, choice in zip(rows, choices, strict=True)]


def _item(row: DataRow, form: Form, topic: str, choice: DataRow | None = None) -> PrefEvalItem:
    question = row.text("question")
    if choice is not None and choice.text("question") != question:
        raise choice.wrong("question", f"differs from that of the same row of {FOLDERS[form]}")
    return PrefEvalItem(
        id=f"{topic}/{row.number}",
        topic=topic,
        preference=row.text("preference"),
        question=question,
        history=_HISTORIES[form](row),
        options=choice.texts("classification_task_options", OPTIONS) if choice else (),
    )


def _choice_history(row: DataRow) -> tuple[Message, ...]:
    said = row.object("conversation")
    return (
        Message("user", said.text("query")),
        Message("assistant", said.text("assistant_options")),
        Message("user", said.text("user_selection")),
        Message("assistant", said.text("assistant_acknowledgment")),
    )


def _persona_history(row: DataRow) -> tuple[Message, ...]:
    """Exchanges under the keys "0", "1", …"""
    said = row.object("conversation")
    messages: list[Message] = []
    for number in range(len(said.fields)):
        turn = said.object(str(number))
        messages.append(Message("user", turn.text("user")))
        messages.append(Message("assistant", turn.text("assistant")))
    if not messages:
        raise row.wrong("conversation", "is empty")
    return tuple(messages)


_HISTORIES: dict[Form, Callable[[DataRow], tuple[Message, ...]]] = {
    "explicit": lambda row: (),
    "choice": _choice_history,
    "persona": _persona_history,
}
