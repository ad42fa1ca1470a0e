"""What fronts are measured from: one JSON object a line, the rewards of one answer under one preference vector.

``{"method": "parm", "alpha": {"help": 0.7, "brief": 0.3}, "prompt": "…", "rewards": {"help": 0.4, "brief": 0.9}}``, and
whatever else a line carries; ``tokens``, the length of the answer, is reported, too. Every method has the same prompts
under each of its preference vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput
from preftilt.records.parsing import file_objects


@dataclass(frozen=True, slots=True)
class MethodRewards:
    """One method: ``alphas`` [A, k] in the order of the first objective, ``rewards`` [A, P, k] (the caller's units).

    ``tokens`` is the mean length of its answers, None where lines do not tell it.
    """

    method: str
    alphas: Float[np.ndarray, "A k"]
    rewards: Float[np.ndarray, "A P k"]
    tokens: float | None


Cell = dict[str, tuple[tuple[float, ...], float | None]]
"""Rewards and length of the answer to every prompt, under one preference vector."""


def read_rewards(paths: Sequence[Path], objectives: Sequence[str]) -> list[MethodRewards]:
    """The methods of all files, in the order in which they first appear.

    Raises :class:`~preftilt.errors.BadInput`, naming file, line and field, for lines that are no such records, and for
    a method that lacks an answer.
    """
    methods: dict[str, dict[tuple[float, ...], Cell]] = {}
    for where, row in (line for path in paths for line in file_objects(path)):
        if "error" in row:
            raise BadInput(f"{where} is an answer that failed: {row['error']}; run the sweep again")
        for name in ("method", "prompt"):
            if not isinstance(row.get(name), str):
                raise BadInput(f'{where}: "{name}" must be a text')
        method, prompt, tokens = row["method"], row["prompt"], row.get("tokens")
        alpha = _numbers(row, "alpha", objectives, where)
        cell = methods.setdefault(method, {}).setdefault(alpha, {})
        if prompt in cell:
            raise BadInput(f'{where}: {method} answers prompt "{prompt}" twice under one alpha')
        length = float(tokens) if isinstance(tokens, int | float) else None
        cell[prompt] = _numbers(row, "rewards", objectives, where), length
    if not methods:
        raise BadInput(f"{', '.join(map(str, paths))}: there are no records")
    prompts = sorted(
        {name for cells in methods.values() for cell in cells.values() for name in cell}
    )
    return [_swept(method, cells, prompts) for method, cells in methods.items()]


def _swept(
    method: str, cells: Mapping[tuple[float, ...], Cell], prompts: Sequence[str]
) -> MethodRewards:
    ordered = sorted(cells)
    for alpha in ordered:
        if missing := [name for name in prompts if name not in cells[alpha]]:
            raise BadInput(
                f"{method} has no answer to {len(missing)} of {len(prompts)} prompts under alpha {alpha}, e.g."
                f' "{missing[0]}": all methods must answer the same prompts under each of their preference vectors'
            )
    answers = [[cells[alpha][name] for name in prompts] for alpha in ordered]
    lengths = [length for each in answers for _, length in each]
    known = [length for length in lengths if length is not None]
    return MethodRewards(
        method,
        np.array(ordered, np.float64),
        np.array([[rewards for rewards, _ in each] for each in answers], np.float64),
        float(np.mean(known)) if len(known) == len(lengths) else None,
    )


def _numbers(
    row: Mapping[str, Any], field: str, objectives: Sequence[str], where: str
) -> tuple[float, ...]:
    numbers = row.get(field)
    if not isinstance(numbers, dict):
        raise BadInput(f'{where}: "{field}" must be an object of numbers by objective')
    for name in objectives:
        value = numbers.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise BadInput(f'{where}: "{field}" has no number for {name}')
    if field == "alpha" and set(numbers) - set(objectives):
        others = ", ".join(sorted(set(numbers) - set(objectives)))
        raise BadInput(f'{where}: "alpha" names {others} beside {", ".join(objectives)}')
    return tuple(float(numbers[name]) for name in objectives)
