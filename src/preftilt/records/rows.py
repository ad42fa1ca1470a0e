"""Rows of an input file: every one is checked before the first token is spent.

Strings in JSON are taken as they are: a strength is given by the object form, ``{"text": …, "strength": …}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.messages import Message, read_messages
from preftilt.prompt import check_contrast
from preftilt.records.parsing import parse_json
from preftilt.records.patch import SettingsPatch, complaints
from preftilt.records.strict import Strict, Visible
from preftilt.types import Preference

MAX_COMPLAINTS = 5


class Named(Protocol):
    """What rows become: things with an id that no other row has."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=BaseModel)
I = TypeVar("I", bound=Named)  # noqa: E741


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A row that passed every check; ``line`` is where it stood."""

    id: str
    line: int
    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    settings: Settings
    responses: tuple[str, ...] = ()

    @property
    def preferred(self) -> bool:
        """Whether it has a preference that λ weighs; otherwise reward models alone read it."""
        return bool(self.preferences) or self.settings.prompt.history == "preference"

    def fingerprint(self, model: Mapping[str, Any]) -> str:
        """A digest of all that shapes this row's record: its words, its settings, and how the model was opened."""
        whole = {
            "model": dict(model),
            "messages": [asdict(one) for one in self.messages],
            "preferences": [asdict(one) for one in self.preferences],
            "settings": asdict(self.settings),
            "responses": list(self.responses),
        }
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
        return blake2b(text.encode(errors="backslashreplace"), digest_size=12).hexdigest()


class PreferenceRow(Strict):
    """A preference; ``strength`` null takes the request's lambda."""

    text: Visible
    strength: float | None = None


def _preference(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


PreferenceField = Annotated[
    PreferenceRow, BeforeValidator(_preference, json_schema_input_type=Visible | PreferenceRow)
]


class Row(Strict):
    """A line of ``preftilt run``'s input; id defaults to the line's number, settings change the command line's."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["question"]}, {"required": ["messages"]}]}
    )

    id: Annotated[str, Field(min_length=1)] | int | None = None
    question: Visible | None = None
    messages: Annotated[list[dict[str, str | list[dict[str, Any]]]], Field(min_length=1)] | None = (
        None
    )
    preference: PreferenceField | None = None
    preferences: Annotated[list[PreferenceField], Field(min_length=1)] | None = None
    settings: SettingsPatch = SettingsPatch()

    @model_validator(mode="after")
    def _not_both(self) -> Row:
        self._need_one("question", "messages")
        if self.preference and self.preferences:
            raise ValueError('"preference" and "preferences" exclude each other')
        return self

    def _need_one(self, first: str, second: str) -> None:
        given = [name for name in (first, second) if getattr(self, name) is not None]
        if not given:
            raise ValueError(f'"{first}" is missing (or "{second}")')
        if len(given) == 2:
            raise ValueError(f'"{first}" and "{second}" exclude each other')

    def item(self, line: int, base: Settings) -> Item:
        """The row over the settings it changes; raises :class:`~preftilt.errors.BadInput`."""
        preferences = self.preferences or [self.preference]
        settings = self.settings.apply(base)
        if preferences == [None] and self.needs_preference(settings):
            raise BadInput('"preference" is missing (or "preferences")')
        stated = tuple(
            Preference(wish.text, wish.strength) for wish in preferences if wish is not None
        )
        check_contrast(stated, settings.prompt)
        return Item(
            id=str(line if self.id is None else self.id),
            line=line,
            messages=tuple(
                [Message("user", self.question)]
                if self.question is not None
                else read_messages(self.messages)
            ),
            preferences=stated,
            settings=settings,
            responses=self.given_responses(),
        )

    def needs_preference(self, settings: Settings) -> bool:
        """Whether there is nothing to realign without one."""
        return settings.prompt.history == "both" and not settings.arms.names

    def given_responses(self) -> tuple[str, ...]:
        """Responses to score; a row to realign has none."""
        return ()


class PromptRow(Row):
    """A line of ``preftilt sweep``'s input: a row that the bare model may answer, too."""

    def needs_preference(self, settings: Settings) -> bool:
        return False


class ScoreRow(Row):
    """A line of ``preftilt score``'s input: a row with the responses to score."""

    response: Visible | None = None
    responses: Annotated[list[Visible], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _some_response(self) -> ScoreRow:
        self._need_one("responses", "response")
        return self

    def given_responses(self) -> tuple[str, ...]:
        return tuple(self.responses or [self.response or ""])


def read_items(
    lines: Iterable[bytes], *, source: str, base: Settings, model: type[Row] = Row
) -> list[Item]:
    """Every row, in order; blank lines are skipped. All rows are read, then the first problems are raised."""
    return read_rows(lines, source=source, model=model, make=lambda row, line: row.item(line, base))


def read_rows(
    lines: Iterable[bytes], *, source: str, model: type[R], make: Callable[[R, int], I]
) -> list[I]:
    """As :func:`read_items`, for rows of any model: ``make`` turns a row and its line into what has an id."""
    items: list[I] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            item = make(_read(raw, model), number)
            if item.id in seen:
                raise BadInput(f'id "{item.id}" stands in line {seen[item.id]} already')
        except ValidationError as failure:
            problems.append(f"line {number}: {'; '.join(complaints(failure, model))}")
        except BadInput as failure:
            problems.append(f"line {number}: {failure}")
        else:
            seen[item.id] = number
            items.append(item)
    if problems:
        raise BadInput(_report(source, problems))
    if not items:
        raise BadInput(f"{source} has no rows")
    return items


def _read(raw: bytes, model: type[R]) -> R:
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise BadInput("not a JSON object")
    return model.model_validate(data)


def _report(source: str, problems: list[str]) -> str:
    rest = len(problems) - MAX_COMPLAINTS
    shown = "\n  ".join(problems[:MAX_COMPLAINTS])
    more = f"\n  and {rest} more bad rows" if rest > 0 else ""
    return f"{source} {shown}{more}"
