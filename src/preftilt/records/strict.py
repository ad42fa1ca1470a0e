"""The base of all models that check JSON, and the fields of those that change settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from preftilt.declare import Declared, declarations

Visible = Annotated[str, StringConstraints(pattern=r"\S")]
"""Text with at least one visible character."""

Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A JSON object that accepts its own fields only, with exactly their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NamedPatch(Strict):
    """Changes to something of which there are several kinds, told apart by a name."""

    name: str | None = None


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
        fields["name"] = (Literal[choices] | None, None)
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
