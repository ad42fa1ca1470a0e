"""Rows of an input file: every one is checked before the first token is spent.

Strings in JSON are taken as they are: a strength is given by the object form, ``{"text": …, "strength": …}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Annotated, Any, Protocol, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.messages import Message, read_messages, read_sharegpt
from preftilt.prompt import check_contrast
from preftilt.records.lines import parse_json
from preftilt.records.patch import SettingsPatch, Strict, Visible, complaints
from preftilt.types import Preference

MAX_COMPLAINTS = 5


class HasId(Protocol):
    """What a checked row has: an id that no other row has."""

    @property
    def id(self) -> str: ...


class _AnyFields(BaseModel):
    """A base that lets a model take fields it does not declare."""

    model_config = ConfigDict(extra="allow")


R = TypeVar("R", bound=BaseModel)
I = TypeVar("I", bound=HasId)  # noqa: E741


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRow:
    """A row that passed every check; ``line`` is where it stood, ``columns`` is what its record carries along."""

    id: str
    line: int
    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    settings: Settings
    responses: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preferred(self) -> bool:
        """Whether it has a preference that λ weighs; otherwise reward models alone read it."""
        return bool(self.preferences) or self.settings.prompt.history == "preference"

    def fingerprint(self, model: Mapping[str, Any]) -> str:
        """A digest of all that shapes this row's record: its words, its settings, and how the model was opened."""
        whole = {
            "model": dict(model),
            "messages": [asdict(message) for message in self.messages],
            "preferences": [asdict(preference) for preference in self.preferences],
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


class InputRow(Strict):
    """A line of ``preftilt run``'s input; id defaults to the line's number, settings change the command line's."""

    model_config = ConfigDict(
        title="Row",
        json_schema_extra={
            "anyOf": [{"required": [name]} for name in ("question", "messages", "conversations")]
        },
    )

    id: Annotated[str, Field(min_length=1)] | int | None = None
    question: Visible | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    conversations: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(
        default=None, description="ShareGPT's form of messages: objects with from and value."
    )
    preference: PreferenceField | None = None
    preferences: Annotated[list[PreferenceField], Field(min_length=1)] | None = None
    settings: SettingsPatch | None = None

    @model_validator(mode="after")
    def _not_both(self) -> InputRow:
        self._need_one("question", "messages", "conversations")
        if self.preference and self.preferences:
            raise ValueError('"preference" and "preferences" exclude each other')
        return self

    def _need_one(self, *names: str) -> None:
        present = [name for name in names if getattr(self, name) is not None]
        if not present:
            raise ValueError(f'"{names[0]}" is missing (or "{names[1]}")')
        if len(present) > 1:
            raise ValueError(f'"{present[0]}" and "{present[1]}" exclude each other')

    def item(self, line: int, base: Settings, preferred: Sequence[Preference] = ()) -> CheckedRow:
        """The row over the settings it changes; ``preferred`` are the preferences of rows that state none.

        Raises :class:`~preftilt.errors.BadInput`.
        """
        settings = base if self.settings is None else self.settings.apply(base)
        rows = self.preferences or ([self.preference] if self.preference else [])
        stated = [Preference(row.text, row.strength) for row in rows]
        if settings.prompt.history == "both":
            stated = stated or [*preferred]
        if not stated and self.needs_preference(settings):
            raise BadInput(
                '"preference" is missing (or "preferences", or --preference for all rows without one)'
            )
        check_contrast(stated, settings.prompt)
        return CheckedRow(
            id=str(line if self.id is None else self.id),
            line=line,
            messages=tuple(self._conversation()),
            preferences=tuple(stated),
            settings=settings,
            responses=self.given_responses(),
            columns=self.model_extra or {},
        )

    def _conversation(self) -> list[Message]:
        if self.question is not None:
            return [Message("user", self.question)]
        if self.conversations is not None:
            return read_sharegpt(self.conversations)
        return read_messages(self.messages)

    def needs_preference(self, settings: Settings) -> bool:
        """Whether there is nothing to realign without one."""
        return settings.prompt.history == "both" and not settings.arms.names

    def given_responses(self) -> tuple[str, ...]:
        """Responses to score; a row to realign has none."""
        return ()


class PromptRow(InputRow):
    """A line of ``preftilt sweep``'s input: a row that the bare model may answer, too."""

    def needs_preference(self, settings: Settings) -> bool:
        return False


class ScoreRow(InputRow):
    """A line of ``preftilt score``'s input: a row with the responses to score."""

    model_config = ConfigDict(title="ScoreRow")

    response: Visible | None = None
    responses: Annotated[list[Visible], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _some_response(self) -> ScoreRow:
        self._need_one("responses", "response")
        return self

    def given_responses(self) -> tuple[str, ...]:
        return tuple(self.responses or [self.response or ""])


def read_items(
    lines: Iterable[bytes], *, source: str, base: Settings, model: type[InputRow] = InputRow
) -> list[CheckedRow]:
    """Every row, in order; see :func:`iter_items`."""
    return [*iter_items(lines, source=source, base=base, model=model)]


def iter_items(
    lines: Iterable[bytes],
    *,
    source: str,
    base: Settings,
    model: type[InputRow] = InputRow,
    preferred: Sequence[Preference] = (),
    keep_columns: bool = False,
) -> Iterator[CheckedRow]:
    """The good rows, in order, each as its line is read; blank lines are skipped. In the end problems are raised.

    preferred: the preferences of rows that state none. keep_columns: fields that rows do not have become their
    columns, which records carry along, and are not refused.
    """
    return iter_rows(
        lines,
        source=source,
        model=_keeping(model) if keep_columns else model,
        make=lambda row, line: row.item(line, base, preferred),
    )


@cache
def _keeping(model: type[InputRow]) -> type[InputRow]:
    """The model, with any further field allowed."""
    return cast(type[InputRow], create_model(model.__name__, __base__=(model, _AnyFields)))


def read_rows(
    lines: Iterable[bytes], *, source: str, model: type[R], make: Callable[[R, int], I]
) -> list[I]:
    """Every row, in order; see :func:`iter_rows`."""
    return [*iter_rows(lines, source=source, model=model, make=make)]


def iter_rows(
    lines: Iterable[bytes], *, source: str, model: type[R], make: Callable[[R, int], I]
) -> Iterator[I]:
    """As :func:`iter_items`, for rows of any model: ``make`` turns a row and its line into what has an id.

    A field that is null is one that is not there: tables fill in so what only other rows have.
    """
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
            yield item
    if problems:
        raise BadInput(_report(source, problems))
    if not seen:
        raise BadInput(f"{source} has no rows")


def _read(raw: bytes, model: type[R]) -> R:
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise BadInput("not a JSON object")
    return model.model_validate({name: value for name, value in data.items() if value is not None})


def _report(source: str, problems: list[str]) -> str:
    rest = len(problems) - MAX_COMPLAINTS
    shown = "\n  ".join(problems[:MAX_COMPLAINTS])
    more = f"\n  and {rest} more bad rows" if rest > 0 else ""
    return f"{source} {shown}{more}"
