"""A protocol's switches: a preset's values, with those that the user of a task changes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

from preftilt.errors import BadInput
from preftilt.eval.harness.method import Json, json_object

Rules = TypeVar("Rules")


def switched(base: Rules, switches: str | Json | None) -> Rules:
    """``base``, a frozen dataclass with a field ``preset``, with the user's ``switches``: an object or its JSON.

    Raises :class:`~preftilt.errors.BadInput` for a switch that does not exist, and for one that is on or off and is
    given anything else; what else a switch can be is for the dataclass to check.
    """
    changes = json_object(switches, "switches")
    known: dict[str, Any] = {
        field.name: getattr(base, field.name)
        for field in fields(base)  # pyright: ignore[reportArgumentType]
        if field.name != "preset"
    }
    for name, value in changes.items():
        if name not in known:
            raise BadInput(f"there is no switch {name!r}; there are {', '.join(known)}")
        if isinstance(known[name], bool) and not isinstance(value, bool):
            raise BadInput(f"the switch {name} is {value!r}; it must be true or false")
    return replace(base, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue]
