"""Changes to the reward models that read a request, under the names of the command line and of a server's body."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from preftilt.settings import ArmSettings

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
