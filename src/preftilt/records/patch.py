"""Changes to settings, under the names that results record; the command line's flags and a row's ``settings`` alike.

A field that is absent or null changes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.prompt import History
from preftilt.search import DVTS, BestOfN, Greedy, Sample, Search
from preftilt.types import EosScoring, GenerateWith, Placement, Reduction, Sampling

SearchName = Literal["best-of-n", "dvts", "sample", "greedy"]

SEARCHES: dict[str, type[BestOfN] | type[DVTS] | type[Sample] | type[Greedy]] = {
    "best-of-n": BestOfN,
    "dvts": DVTS,
    "sample": Sample,
    "greedy": Greedy,
}

Visible = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text with at least one visible character."""

Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A JSON object that accepts its own fields only, with exactly their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SearchPatch(Strict):
    """Which search, and its own settings."""

    name: SearchName | None = None
    n: Count | None = None
    subtrees: Count | None = None
    width: Count | None = None
    delimiter: Annotated[str, Field(min_length=1)] | None = None
    max_steps: Count | None = None

    def apply(self, base: Search) -> Search:
        """``base`` with these changes; another name starts from that search's defaults."""
        kind = SEARCHES[self.name or base.name]
        own = [one.name for one in fields(kind) if one.name != "name"]
        given = self.model_dump(exclude_none=True, exclude={"name"})
        for name in idle(kind().name, given):
            has = f"it has {', '.join(own)}" if own else "it has no settings of its own"
            raise BadInput(f"{name} does not apply to the search {kind().name!r}: {has}")
        start = base if isinstance(base, kind) else kind()
        return replace(start, **given)


class SettingsPatch(Strict):
    """Changes to :class:`~preftilt.api.Settings`, flat, as in a result's ``settings``."""

    lam: float | None = Field(default=None, alias="lambda")
    search: SearchPatch | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    gamma: Annotated[float, Field(gt=0, le=1)] | None = None
    reduction: Reduction | None = None
    eos: EosScoring | None = None
    generate_with: GenerateWith | None = None
    max_tokens: Count | None = None
    seed: int | None = None
    placement: Placement | None = None
    history: History | None = None
    system: str | None = None
    question_system: str | None = None

    def apply(self, base: Settings) -> Settings:
        """``base`` with these changes."""
        given = self.model_dump(exclude_none=True, exclude={"search"})
        parts: dict[str, Any] = {
            name: value for name, value in given.items() if name in ("lam", "max_tokens", "seed")
        }
        for part in ("sampling", "reward", "prompt"):
            old = getattr(base, part)
            changes = {one.name: given[one.name] for one in fields(old) if one.name in given}
            parts[part] = replace(old, **changes)
        search = base.search if self.search is None else self.search.apply(base.search)
        for name in idle(search.name, given):
            raise BadInput(
                f"{name} does not apply to the search {search.name!r}; it belongs to {', '.join(takers(name))}"
            )
        parts["search"] = search
        return replace(base, **parts)


def takers(name: str) -> list[str]:
    """The searches that read the setting ``name``; a greedy one draws nothing, so it samples by nothing."""
    if name in {one.name for one in fields(Sampling)}:
        return [search for search in SEARCHES if search != "greedy"]
    if name in SearchPatch.model_fields:
        kinds = SEARCHES.items()
        return [search for search, kind in kinds if name in {one.name for one in fields(kind)}]
    return [*SEARCHES]


def idle(search: str, given: Iterable[str]) -> list[str]:
    """Those of the settings ``given`` that ``search`` would ignore."""
    return [name for name in given if search not in takers(name)]


def complaints(failure: ValidationError, model: type[BaseModel]) -> list[str]:
    """What is wrong, one sentence a problem, in the words of the person who wrote the JSON."""
    return [_complaint(dict(error), model) for error in failure.errors(include_url=False)]


def _complaint(error: dict[str, Any], model: type[BaseModel]) -> str:
    *above, last = error["loc"] or ("",)
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f'unknown field "{where}"{_nearest(str(last), _names(model, above))}'
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = "must not be empty"
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


def _nearest(name: str, valid: list[str]) -> str:
    [*close] = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; the fields are {', '.join(valid)}"


def _names(model: type[BaseModel], path: list[Any]) -> list[str]:
    """The field names that are valid in the object at ``path`` below ``model``."""
    for step in path:
        for name, one in model.model_fields.items():
            if step in (name, one.alias):
                model = next(iter(_models(one.annotation)), model)
    return [one.alias or name for name, one in model.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model that is part of a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _models(arg)]
