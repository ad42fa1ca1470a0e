"""Changes to the method that picks among candidates, under the names that results record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator

from preftilt.errors import BadInput
from preftilt.records.strict import NamedPatch, patch_of
from preftilt.rivals import METHODS, Method

KINDS = dict.fromkeys(type(method) for method in METHODS.values())


class MethodPatch(patch_of(NamedPatch, KINDS, METHODS)):
    """Which method picks the answer, and its own settings."""

    def apply(self, base: Method) -> Method:
        """``base`` with these changes; another kind of method starts from its defaults."""
        named = METHODS[self.name or base.name]
        changes = self.model_dump(exclude_none=True, exclude={"name"})
        for name in ignored_by_method(named.name, changes):
            own = [setting.name for setting in fields(named) if setting.name != "name"]
            has = f"it has {', '.join(own)}" if own else "it has no settings of its own"
            raise BadInput(f"{name} does not apply to the method {named.name!r}: {has}")
        start = base if type(base) is type(named) else named
        if any(setting.name == "name" and setting.init for setting in fields(start)):
            changes["name"] = named.name
        return replace(start, **changes)


MethodField = Annotated[
    MethodPatch,
    BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value,
        json_schema_input_type=Literal[*METHODS] | MethodPatch,
    ),
]
"""A method, or its name alone."""


def ignored_by_method(method: str, names: Iterable[str]) -> list[str]:
    """Those of the settings ``names`` that ``method`` would ignore."""
    return [name for name in names if method not in methods_with(name)]


def methods_with(name: str) -> list[str]:
    """The methods that read the setting ``name``."""
    return [
        method
        for method, kind in METHODS.items()
        if name in {setting.name for setting in fields(kind)}
    ]
