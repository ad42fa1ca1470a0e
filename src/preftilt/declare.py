"""A setting is declared once: as a field of a frozen dataclass. Its check, flag, JSON field and help follow from that.

- The field's type says what a value is; the words of a ``Literal`` are the choices.
- :func:`setting` says what else bounds a value, and what the flag needs besides.
- The class's docstring says under ``Attributes:`` what it does; the first sentence is the help of its flag and the
  description of its JSON field.

Who takes a setting: :func:`check_settings` in ``__post_init__``, :func:`preftilt.records.patch.patch_of` in JSON,
``preftilt.cli.options`` on the command line.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from preftilt.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a field says of itself besides its type and default.

    Attributes:
        least: the smallest number; of a text, its fewest characters.
        above: a number must be larger than this.
        below: a number must be smaller than this.
        most: the largest number.
        visible: a text needs a character that can be seen.
        alias: its name in JSON and, with dashes, on the command line, where that is not the field's.
        flags: its spellings on the command line, where one name is not all.
        metavar: what stands for the value in the help, where the type does not say.
        repeats: whether its flag may be repeated.
        told: the default in words, where the value does not say.
        panel: of the help, where not all settings of the class stand in one.
    """

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    visible: bool = False
    alias: str = ""
    flags: tuple[str, ...] = ()
    metavar: str = ""
    repeats: bool = False
    told: str = ""
    panel: str = ""


def setting(default: Any = MISSING, *, factory: Any = MISSING, **facts: Any) -> Any:
    """The field of a dataclass with its default, if it has one, and its :class:`Facts`."""
    return field(default=default, default_factory=factory, metadata={"facts": Facts(**facts)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A setting as its field declares it.

    Attributes:
        name: of the field.
        alias: its name in JSON.
        kind: the type without None; ``str`` for a choice.
        choices: the words that it may be; none for other types.
        optional: whether None is a value.
        default: None also where there is none.
        words: the first sentence of what its class says of it.
        facts: all else.
    """

    name: str
    alias: str
    kind: Any
    choices: tuple[str, ...]
    optional: bool
    default: Any
    words: str
    facts: Facts

    def allows(self, value: object) -> bool:
        """Whether it may have ``value``."""
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        if self.kind is str and isinstance(value, str):
            return len(value) >= (self.facts.least or 0) and not (
                self.facts.visible and not value.strip()
            )
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind not in (int, float):
            return True
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (self.kind is float and isinstance(value, float))):
            return False
        number = float(value)  # pyright: ignore[reportArgumentType]
        facts = self.facts
        return (
            math.isfinite(number)
            and (facts.least is None or number >= facts.least)
            and (facts.above is None or number > facts.above)
            and (facts.below is None or number < facts.below)
            and (facts.most is None or number <= facts.most)
        )

    def check(self, value: object, name: str) -> None:
        """Raise :class:`~preftilt.errors.BadInput` for what it cannot have; ``name`` is what the reader calls it."""
        if not self.allows(value):
            raise BadInput(f"{name} must be {self.bounds}, not {value!r}")

    @property
    def bounds(self) -> str:
        """What it must be, in words."""
        facts = self.facts
        if self.choices:
            *others, last = self.choices
            return f"{', '.join(others)} or {last}" if others else last
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a text that is not empty"
        ends = [
            *([] if facts.least is None else [f"at least {facts.least:g}"]),
            *([] if facts.above is None else [f"above {facts.above:g}"]),
            *([] if facts.below is None else [f"below {facts.below:g}"]),
            *([] if facts.most is None else [f"at most {facts.most:g}"]),
        ]
        if self.kind is int:
            return " ".join(["a whole number", *(["of", " and ".join(ends)] if ends else [])])
        return " and ".join(ends) or "a finite number"


def check_settings(values: Any) -> None:
    """Raise :class:`~preftilt.errors.BadInput` for a setting in the dataclass ``values`` that it cannot have."""
    for declared in declarations(type(values)):
        named = declared.name != "name" and hasattr(values, "name")
        owner = f" of {values.name}" if named else ""
        declared.check(getattr(values, declared.name), declared.alias + owner)


@cache
def declarations(kind: type[Any]) -> tuple[Declared, ...]:
    """The settings that a dataclass declares, in order: its fields that can be set and are no group of settings."""
    hints, words = get_type_hints(kind), attribute_docs(kind)
    return tuple(_declared(kind, hints[part.name], part, words) for part in _settings(kind))


def _settings(kind: type[Any]) -> Iterator[Any]:
    for part in fields(kind):
        if part.init and (part.default_factory is MISSING or "facts" in part.metadata):
            yield part


def _declared(kind: type[Any], hint: Any, part: Any, words: Mapping[str, str]) -> Declared:
    types = [option for option in get_args(hint) if option is not NoneType]
    optional = NoneType in get_args(hint)
    own = types[0] if optional and len(types) == 1 else hint
    choices = get_args(own) if get_origin(own) is Literal else ()
    facts = part.metadata.get("facts", Facts())
    default = part.default if part.default_factory is MISSING else part.default_factory()
    return Declared(
        name=part.name,
        alias=facts.alias or part.name,
        kind=str if choices else own,
        choices=choices,
        optional=optional,
        default=None if default is MISSING else default,
        words=words.get(part.name, ""),
        facts=facts,
    )


@cache
def attribute_docs(kind: type[Any]) -> Mapping[str, str]:
    """The first sentences of what the docstring of ``kind`` says of its attributes, without markup."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: _first_sentence(" ".join(text.split())) for name, text in entries}


def _first_sentence(text: str) -> str:
    first = re.split(r"(?<=\.) (?=[A-Z`])", text)[0]
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", first).replace("`", "")
