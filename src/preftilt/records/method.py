"""Changes to the method that picks among candidates, under the names that results record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from preftilt.errors import BadInput
from preftilt.records.strict import Count, Strict
from preftilt.rivals import METHODS, ByLogprob, ByVote, Method, MethodName


class MethodPatch(Strict):
    """Which method picks the answer, and its own settings."""

    name: MethodName | None = None
    answers: Literal["letter", "maths"] | None = None
    preference_in: Literal["system", "user"] | None = None
    judge_mode: Literal["forced", "cot"] | None = None
    judge_tokens: Count | None = None
    judge_temperature: Annotated[float, Field(ge=0)] | None = None

    def apply(self, base: Method) -> Method:
        """``base`` with these changes; another kind of method starts from its defaults."""
        named = METHODS[self.name or base.name]
        changes = self.model_dump(exclude_none=True, exclude={"name"})
        for name in ignored_by_method(named.name, changes):
            own = [setting.name for setting in fields(named) if setting.name != "name"]
            has = f"it has {', '.join(own)}" if own else "it has no settings of its own"
            raise BadInput(f"{name} does not apply to the method {named.name!r}: {has}")
        start = base if type(base) is type(named) else named
        if isinstance(start, ByLogprob | ByVote):
            start = replace(start, name=named.name)
        return replace(start, **changes)


MethodField = Annotated[
    MethodPatch,
    BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value,
        json_schema_input_type=MethodName | MethodPatch,
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
