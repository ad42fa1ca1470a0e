"""From a task's arguments to the settings of the method it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.messages import check_encodable
from preftilt.records.parsing import parse_json
from preftilt.records.patch import SettingsPatch, complaints, ignored_by_search

Json = Mapping[str, Any]

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProtocol:
    """What a benchmark does where its user says nothing, named as results name settings.

    search: the search's name. searches: each search's own settings, by name; they count only where it is the search.
    """

    settings: Json
    search: str = "best-of-n"
    searches: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMethod:
    """How answers are made: flat ``settings`` over preftilt's defaults, and the names of those ``chosen`` by the user.

    With nothing chosen, a model that is not preftilt's own is measured as it is.
    """

    settings: Json
    chosen: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What stands in logs."""
        return {"settings": dict(self.settings), "chosen": list(self.chosen)}


def choose_method(
    protocol: BenchmarkProtocol,
    *,
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | Json | None = None,
) -> TaskMethod:
    """The protocol's settings with what the user of a task changes.

    lam, search, n: short for ``lambda``, ``search.name`` and ``search.n``. method: how the answer is picked.
    settings: further changes, an object or its JSON: ``{"reduction": "mean", "search": {"delimiter": "\\n\\n"}}``.
    Of the protocol, what the chosen search has no use for is left out; of the user's, it is an error.
    """
    changes = json_object(settings, "settings")
    own = json_object(changes.get("search"), "search")
    for place, name, value in (
        (changes, "lambda", lam),
        (changes, "method", method),
        (own, "name", search),
        (own, "n", n),
    ):
        if value is not None and place.setdefault(name, value) != value:
            raise BadInput(
                f"{name} is given twice, as {value!r} and in settings as {place[name]!r}"
            )
    kind = own.get("name") or protocol.search
    searched = {"name": kind, **protocol.searches.get(kind, {}), **own}
    kept = {
        k: v
        for k, v in protocol.settings.items()
        if k not in ignored_by_search(kind, protocol.settings)
    }
    merged = {**kept, **changes, "search": searched}
    patched(Settings(), merged)
    return TaskMethod(
        settings=merged, chosen=tuple(sorted({*changes, *(["search"] if own else [])}))
    )


def patched(base: Settings, changes: Json) -> Settings:
    """``base`` with ``changes``, which are named as in results and in the rows of ``preftilt run``.

    Raises :class:`~preftilt.errors.BadInput` that says which of them cannot be.
    """
    try:
        patch = SettingsPatch.model_validate(changes)
    except ValidationError as failure:
        raise BadInput(f"settings: {'; '.join(complaints(failure, SettingsPatch))}") from failure
    return patch.apply(base)


def one_of(name: str, value: str, choices: tuple[Choice, ...]) -> Choice:
    """The choice that a task's argument ``name`` makes; anything else is refused with what there is."""
    for choice in choices:
        if choice == value:
            return choice
    raise BadInput(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def json_object(value: object, name: str) -> dict[str, Any]:
    """An object that a task's argument ``name`` gives, from its JSON if need be; nothing is an empty one."""
    if isinstance(value, str):
        check_encodable(value, name)
    data = parse_json(value.encode()) if isinstance(value, str) else value
    if data is not None and not isinstance(data, Mapping):
        raise BadInput(f"{name} must be a JSON object, not {value!r}")
    return dict(data or {})
