"""Changes to settings, under the names that results record; the command line's flags and a row's ``settings`` alike.

A field that is absent or null changes nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
)

from preftilt.api import Settings
from preftilt.declare import Declared, declarations
from preftilt.errors import BadInput
from preftilt.prompt import PromptSettings
from preftilt.reward import Reward
from preftilt.rivals import METHODS, Method
from preftilt.search import PRESETS, SEARCHES, Search
from preftilt.settings import ArmSettings
from preftilt.types import Sampling

Visible = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text with at least one visible character."""

Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A JSON object that accepts its own fields only, with exactly their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NamedPatch(Strict):
    """Changes to something of which there are several kinds, told apart by a name."""

    name: str | None = None

    def changes(self) -> dict[str, Any]:
        """The settings that it changes, by name, besides which of the kinds it is."""
        return self.model_dump(exclude_none=True, exclude={"name"})


PatchT = TypeVar("PatchT", bound=Strict)


def patch_of(
    base: type[PatchT], kinds: Iterable[type[Any]], names: Iterable[str] = ()
) -> type[PatchT]:
    """``base`` with every setting that ``kinds`` declare, all of them optional: None changes nothing.

    names: those that ``name`` may be. Where two kinds declare a setting of one name, the first decides.
    """
    fields: dict[str, Any] = {}
    for kind in kinds:
        for setting in declarations(kind):
            fields.setdefault(setting.name, (_type_of(setting) | None, _field_of(setting)))
    if choices := tuple(names):
        kind: Any = Literal[choices]
        fields["name"] = (kind | None, None)
    return create_model(base.__name__, __base__=base, __module__=__name__, **fields)


def _type_of(setting: Declared) -> Any:
    return Literal[setting.choices] if setting.choices else setting.kind


def _field_of(setting: Declared) -> Any:
    facts = setting.facts
    bounds: dict[str, Any] = {"gt": facts.above, "lt": facts.below, "le": facts.most}
    bounds["min_length" if setting.kind is str else "ge"] = facts.least
    return Field(
        default=None,
        alias=facts.alias or None,
        description=setting.words or None,
        pattern=r"\S" if facts.visible else None,
        **bounds,
    )


_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


def _alpha(value: Any) -> Any:
    """``{"help": 0.7, "harmless": 0.3}`` as ``help=0.7,harmless=0.3``; other values as they are."""
    if not isinstance(value, dict):
        return value
    parts: list[str] = []
    for name, share in value.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an objective")
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise ValueError(f"alpha of {name} must be a number, not {share!r}")
        parts.append(f"{name}={share!r}")
    return ",".join(parts)


Name = Annotated[str, Field(min_length=1)]
ArmNames = Annotated[
    list[Name],
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=Name | list[Name],
    ),
    Field(description="Reward models that read the responses, by name; [] is none."),
]
AlphaField = Annotated[
    str,
    BeforeValidator(_alpha, json_schema_input_type=dict[str, float] | str),
    Field(description="How much each of their objectives counts; sums to 1."),
]
ArmWeightField = Annotated[
    dict[str, float],
    BeforeValidator(
        lambda value: value if isinstance(value, dict) else {"": value},
        json_schema_input_type=float | dict[str, float],
    ),
    Field(description="Weight of their log-probs beside the base's 1: of all, or by name."),
]


def patched(
    base: ArmSettings,
    names: Sequence[str] | None,
    alpha: str | None,
    weights: dict[str, float] | None,
) -> ArmSettings:
    """``base`` with these changes; other names start from the defaults. A weight under the name "" is that of all."""
    if names is not None and tuple(names) != base.names:
        base = ArmSettings(names=tuple(names))
    if alpha is not None:
        base = replace(base, alpha=alpha)
    if weights is not None:
        own = tuple((name, weight) for name, weight in weights.items() if name)
        base = replace(base, weight=weights.get("", base.weight), weights=own or base.weights)
    return base


KINDS = dict.fromkeys(type(method) for method in METHODS.values())


class MethodPatch(patch_of(NamedPatch, KINDS, METHODS)):
    """Which method picks the answer, and its own settings."""

    def apply(self, base: Method) -> Method:
        """``base`` with these changes; another kind of method starts from its defaults."""
        named = METHODS[self.name or base.name]
        changes = self.changes()
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


class SearchPatch(patch_of(NamedPatch, SEARCHES.values(), [*SEARCHES, *PRESETS])):
    """Which search, and its own settings."""

    def apply(self, base: Search) -> Search:
        """``base`` with these changes; another name starts from that search's defaults, a preset's from its own."""
        if self.name in PRESETS:
            base = PRESETS[self.name].search
        kind = SEARCHES[search_of(self.name or base.name)]
        own = [setting.name for setting in fields(kind) if setting.name != "name"]
        changes = self.changes()
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
