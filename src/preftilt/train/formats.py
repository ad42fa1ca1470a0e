"""The kinds of rows that pairs come in, told apart by their fields.

- Ours: ``prompt`` (or ``messages``), ``chosen``, ``rejected`` and perhaps ``objective``; or, for several objectives,
  ``prompt`` (or ``messages``), ``responses`` [2] and ``preferred`` {objective: 0 or 1}. An objective that
  finds both alike is left out of ``preferred``. Other fields are refused, but for ``id`` and ``rewards``, which may
  tell people where a verdict came from.
- HH-RLHF: ``chosen`` and ``rejected`` are whole conversations ("\\n\\nHuman: … \\n\\nAssistant: …").
- PKU-SafeRLHF: ``prompt``, ``response_0``, ``response_1``, ``better_response_id`` and ``safer_response_id``, read as
  verdicts of the objectives ``helpful`` and ``harmless``; its other fields are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftilt.errors import BadInput
from preftilt.messages import Message, check_encodable, check_messages, read_messages

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
