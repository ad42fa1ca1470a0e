"""Changes to settings, under the names that results record; the command line's flags and a row's ``settings`` alike.

A field that is absent or null changes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.prompt import PromptSettings
from preftilt.records.arms import AlphaField, ArmNames, ArmWeightField, patched
from preftilt.records.method import MethodField
from preftilt.records.strict import NamedPatch, Strict, patch_of
from preftilt.reward import Reward
from preftilt.search import PRESETS, SEARCHES, Search
from preftilt.types import Sampling


class SearchPatch(patch_of(NamedPatch, SEARCHES.values(), [*SEARCHES, *PRESETS])):
    """Which search, and its own settings."""

    def apply(self, base: Search) -> Search:
        """``base`` with these changes; another name starts from that search's defaults, a preset's from its own."""
        if self.name in PRESETS:
            base = PRESETS[self.name].search
        kind = SEARCHES[search_of(self.name or base.name)]
        own = [setting.name for setting in fields(kind) if setting.name != "name"]
        changes = self.model_dump(exclude_none=True, exclude={"name"})
        for name in ignored_by_search(kind().name, changes):
            has = f"it has {', '.join(own)}" if own else "it has no settings of its own"
            raise BadInput(f"{name} does not apply to the search {kind().name!r}: {has}")
        start = base if isinstance(base, kind) else kind()
        return replace(start, **changes)


class SettingsPatch(patch_of(Strict, (Sampling, Reward, PromptSettings, Settings))):
    """Changes to :class:`~preftilt.api.Settings`, flat, as in a result's ``settings``."""

    search: SearchPatch | None = None
    method: MethodField | None = None
    arm: ArmNames | None = None
    alpha: AlphaField | None = None
    arm_weight: ArmWeightField | None = None

    def apply(self, base: Settings) -> Settings:
        """``base`` with these changes."""
        whole = {"search", "method", "arm", "alpha", "arm_weight"}
        changes = self.model_dump(exclude_none=True, exclude=whole)
        if self.search is not None and self.search.name in PRESETS:
            base = replace(base, sampling=PRESETS[self.search.name].sampling)
        parts: dict[str, Any] = {
            name: value for name, value in changes.items() if name in ("lam", "max_tokens", "seed")
        }
        for part in ("sampling", "reward", "prompt"):
            old = getattr(base, part)
            own = {
                setting.name: changes[setting.name]
                for setting in fields(old)
                if setting.name in changes
            }
            parts[part] = replace(old, **own)
        search = base.search if self.search is None else self.search.apply(base.search)
        for name in ignored_by_search(search.name, changes):
            raise BadInput(
                f"{name} does not apply to the search {search.name!r}; it belongs to {', '.join(searches_with(name))}"
            )
        parts["search"] = search
        parts["method"] = base.method if self.method is None else self.method.apply(base.method)
        parts["arms"] = patched(base.arms, self.arm, self.alpha, self.arm_weight)
        return replace(base, **parts)


def search_of(name: str) -> str:
    """The search that a name stands for: itself, or that of a preset."""
    return PRESETS[name].search.name if name in PRESETS else name


def searches_with(name: str) -> list[str]:
    """The searches that read the setting ``name``; a greedy one draws nothing, so it samples by nothing."""
    if name in {setting.name for setting in fields(Sampling)}:
        return [search for search in SEARCHES if search != "greedy"]
    if name in SearchPatch.model_fields:
        kinds = SEARCHES.items()
        return [
            search for search, kind in kinds if name in {setting.name for setting in fields(kind)}
        ]
    return [*SEARCHES]


def ignored_by_search(search: str, names: Iterable[str]) -> list[str]:
    """Those of the settings ``names`` that ``search`` would ignore."""
    return [name for name in names if search not in searches_with(name)]


RENAMED = {"guidance": "lambda"}
"""Fields of former versions that are part of another one now."""


def complaints(failure: ValidationError, model: type[BaseModel]) -> list[str]:
    """What is wrong, one sentence a problem, in the words of the person who wrote the JSON."""
    return [_complaint(dict(error), model) for error in failure.errors(include_url=False)]


def _complaint(error: dict[str, Any], model: type[BaseModel]) -> str:
    *above, last = error["loc"] or ("",)
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden" and last in RENAMED:
        return f'"{where}" is now "{RENAMED[last]}", which is one for every search: use that'
    if error["type"] == "extra_forbidden":
        return f'unknown field "{where}"{_nearest(str(last), _names(model, above))}'
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = "must not be empty"
    if error["type"] in ("model_type", "dict_type"):
        message = "must be an object"
    message = message.replace("Input should be", "must be").replace("a valid integer", "an integer")
    message = message.replace("a valid ", "a ")
    if not where:
        return message
    got = error["input"]
    plain = isinstance(got, (int, float, str)) and got != "" and "empty" not in message
    return f'"{where}" {message}' + (f", not {_short(got)}" if plain else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


OTHER_NAMES = {
    "prompt": "question",
    "instruction": "question",
    "query": "question",
    "dialog": "messages",
    "conversation": "messages",
    "completion": "response",
    "output": "response",
    "answer": "response",
}
"""What other files call a field of ours."""


def _nearest(name: str, valid: list[str]) -> str:
    other = OTHER_NAMES.get(name)
    close = [other] if other in valid else difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; the fields are {', '.join(valid)}"


def _names(model: type[BaseModel], path: list[Any]) -> list[str]:
    """The field names that are valid in the object at ``path`` below ``model``."""
    for step in path:
        for name, field in model.model_fields.items():
            if step in (name, field.alias):
                model = next(iter(_models(field.annotation)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model that is part of a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models(arg)]
