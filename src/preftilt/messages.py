"""Conversations: what a message is, and how one is read from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preftilt.errors import BadInput

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``role`` is system, user or assistant."""

    role: str
    content: str


def read_messages(data: object) -> list[Message]:
    """A conversation from parsed JSON: a list of ``{"role": …, "content": …}`` objects.

    Raises :class:`~preftilt.errors.BadInput` naming the message (counted from 0) and the field at
    fault.
    """
    if not isinstance(data, list):
        raise BadInput(
            f"messages must be a list of objects with role and content, not {_json_type(data)}"
        )
    messages = [_read_message(index, one) for index, one in enumerate(data)]
    check_messages(messages)
    return messages


def check_messages(messages: Sequence[Message]) -> None:
    """Raises :class:`~preftilt.errors.BadInput` unless the messages are a conversation that waits
    for an answer.

    Roles are known, a system message comes first or not at all, and the last turn is the user's and
    not blank. Whether user and assistant must take turns is for the model's template to say.
    """
    if not messages:
        raise BadInput("messages is empty: it needs at least one user turn")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role not in ROLES:
            raise BadInput(
                f"{where}.role is {message.role!r}; it must be one of {', '.join(ROLES)}"
            )
        if message.role == "system" and index > 0:
            raise BadInput(
                f"{where}.role: a system message can only come first; move it to the front"
            )
        check_encodable(message.content, f"{where}.content")
    if messages[-1].role != "user":
        raise BadInput(
            f"messages[{len(messages) - 1}].role is {messages[-1].role}; the last message must be"
            " a user turn, the question to answer"
        )
    if not messages[-1].content.strip():
        raise BadInput("the question is empty: the last user turn needs some text")


def _read_message(index: int, data: object) -> Message:
    where = f"messages[{index}]"
    if not isinstance(data, Mapping):
        raise BadInput(f"{where} must be an object with role and content, not {_json_type(data)}")
    fields: dict[str, str] = {}
    for name, value in data.items():
        if name not in ("role", "content"):
            raise BadInput(f"{where} has an unknown field {name!r}; only role and content are read")
        if not isinstance(value, str):
            raise BadInput(f"{where}.{name} must be a string, not {_json_type(value)}")
        fields[name] = value
    for name in ("role", "content"):
        if name not in fields:
            raise BadInput(f"{where} has no {name}; every message needs role and content")
    return Message(fields["role"], fields["content"])


def _json_type(value: object) -> str:
    names = {"NoneType": "null", "str": "a string", "list": "a list", "dict": "an object"}
    numbers = {"bool": "a boolean", "int": "a number", "float": "a number"}
    return (names | numbers).get(type(value).__name__, type(value).__name__)


def check_encodable(text: str, where: str) -> None:
    """JSON can smuggle in half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where} is not valid Unicode (half a surrogate pair at character {error.start});"
            " mend the text"
        ) from error
