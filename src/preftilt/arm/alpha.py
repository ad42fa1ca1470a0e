"""Preference vectors: how much each objective of a reward model counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from preftilt.arm.spec import Objective
from preftilt.errors import BadInput

SUM_TOLERANCE = 1e-6


def parse_alpha(text: str, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """``help=0.7,harmless=0.3`` → (0.7, 0.3), in the order of ``objectives``.

    Raises :class:`~preftilt.errors.BadInput` for names that are unknown, missing or repeated, and as
    :func:`check_alpha` does.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, sign, number = (field.strip() for field in part.partition("="))
        if not sign:
            raise BadInput(f"alpha {part.strip()!r} is not NAME=NUMBER; {_known(objectives)}")
        if name in weights:
            raise BadInput(f"alpha names {name} twice")
        try:
            weights[name] = float(number)
        except ValueError:
            raise BadInput(f"alpha of {name} is {number!r}, not a number") from None
    names = [objective.name for objective in objectives]
    if unknown := [name for name in weights if name not in names]:
        raise BadInput(f"alpha names {', '.join(unknown)}, unknown here; {_known(objectives)}")
    if missing := [name for name in names if name not in weights]:
        raise BadInput(f"alpha leaves out {', '.join(missing)}; {_known(objectives)}")
    return check_alpha([weights[name] for name in names], objectives)


def check_alpha(alpha: Sequence[float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """``alpha`` as floats.

    Raises :class:`~preftilt.errors.BadInput` unless it lies in the simplex over ``objectives``.
    """
    if len(alpha) != len(objectives):
        raise BadInput(f"alpha has {len(alpha)} numbers; {_known(objectives)}")
    for value, objective in zip(alpha, objectives, strict=True):
        if not math.isfinite(value) or value < 0:
            raise BadInput(f"alpha of {objective.name} is {value}; give a number from 0 to 1")
    total = math.fsum(alpha)
    if abs(total - 1) > SUM_TOLERANCE:
        raise BadInput(f"alpha sums to {total:g}; its numbers must sum to 1")
    return tuple(float(value) for value in alpha)


def _known(objectives: Sequence[Objective]) -> str:
    return "the objectives are " + ", ".join(objective.name for objective in objectives)
