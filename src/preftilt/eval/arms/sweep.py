"""Answers of all methods under all preference vectors, kept unit by unit so that a run that was stopped goes on.

A unit is a line of the record file: the answers of one method under one α and strength, or the pools of some items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from preftilt.demo.world import WorldItem, items
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.eval.arms.decode import (
    RewardedAnswer,
    RewardedSample,
    adapters,
    decoded,
    picked,
    pooled,
)
from preftilt.eval.arms.plan import (
    ALPHAS,
    DECODED,
    OBJECTIVES,
    PICKED,
    SCALE,
    TUNING_ALPHAS,
    Alpha,
    Sizes,
)
from preftilt.eval.fronts.metrics import mean_inner_product
from preftilt.eval.shares import in_shares, surveyed
from preftilt.records import Journal, read_records

Part = Literal["validation", "test"]
POOL_ITEMS = 25
"""Items whose pools are one unit."""

ROWS = 256
"""Sequences in a batch, as in the demo's other measurement."""

OnUnit = Callable[[str, int, int], None]
"""Called with what is measured, the units done and the units in all."""


class Sweep:
    """Where adapters and records lie, and how much is measured."""

    def __init__(
        self, adapters: Path, records: Path, sizes: Sizes, processes: int, on_unit: OnUnit
    ) -> None:
        self._adapters = adapters
        self._records = records
        self._sizes = sizes
        self._processes = processes
        self._on_unit = on_unit

    def run(self) -> tuple[dict[str, float], dict[str, dict[Alpha, list[RewardedAnswer]]]]:
        """The strength of every method that has one, chosen on validation, and all answers on test items."""
        parts: tuple[Part, ...] = ("validation", "test")
        self._measure("pools", [unit for part in parts for unit in self._pool_units(part)])
        tuning = [
            _unit("validation", method.name, alpha, weight)
            for method in DECODED.values()
            for weight in method.weights
            for alpha in TUNING_ALPHAS
        ]
        self._measure("strengths", tuning)
        chosen = self._chosen()
        final = [
            _unit("test", method.name, alpha, chosen.get(method.name, 1.0))
            for method in DECODED.values()
            for alpha in (ALPHAS[:1] if method.name == "base" else ALPHAS)
        ]
        self._measure("answers", final)
        return chosen, self._answers(chosen)

    def _measure(self, what: str, units: Sequence[str]) -> None:
        work = partial(_work, self._adapters, self._sizes)
        in_shares(
            work,
            units,
            self._records,
            self._processes,
            lambda done: self._on_unit(what, done, len(units)),
        )

    def _pool_units(self, part: Part) -> list[str]:
        count = len(part_items(part, self._sizes))
        return [f"{part}/pool/{start}" for start in range(0, count, POOL_ITEMS)]

    def _chosen(self) -> dict[str, float]:
        """The strength with the highest MIP over the tuning α; of equal ones the smallest."""
        known = _records(self._records)
        pools = self._pools("validation", known)
        strengths: dict[str, float] = {}
        for method in (*DECODED.values(), *PICKED.values()):
            products = [
                _product(
                    [
                        picked(method.name, pools, alpha, weight)
                        if method.name in PICKED
                        else _answers_of(known[_unit("validation", method.name, alpha, weight)])
                        for alpha in TUNING_ALPHAS
                    ]
                )
                for weight in method.weights
            ]
            if products:
                strengths[method.name] = method.weights[int(np.argmax(products))]
        return strengths

    def _answers(self, chosen: Mapping[str, float]) -> dict[str, dict[Alpha, list[RewardedAnswer]]]:
        known = _records(self._records)
        pools = self._pools("test", known)
        by_method: dict[str, dict[Alpha, list[RewardedAnswer]]] = {}
        for name in DECODED:
            by_method[name] = {
                alpha: _answers_of(
                    known[
                        _unit(
                            "test",
                            name,
                            ALPHAS[0] if name == "base" else alpha,
                            chosen.get(name, 1.0),
                        )
                    ]
                )
                for alpha in ALPHAS
            }
        for name in PICKED:
            by_method[name] = {alpha: picked(name, pools, alpha, chosen[name]) for alpha in ALPHAS}
        return by_method

    def _pools(self, part: Part, known: Mapping[str, dict]) -> list[list[RewardedSample]]:
        return [
            [
                RewardedSample(
                    RewardedAnswer(**sample["answer"]), sample["finished"], sample["logprobs"]
                )
                for sample in pool
            ]
            for unit in self._pool_units(part)
            for pool in known[unit]["pools"]
        ]


def part_items(part: Part, sizes: Sizes) -> Sequence[WorldItem]:
    """The prompts of a part of the measurement."""
    return items(part)[: sizes.prompts if part == "test" else sizes.tuning_prompts]


def _unit(part: Part, method: str, alpha: Alpha, weight: float) -> str:
    return f"{part}/{method}/{alpha[0]:g}/{weight:g}"


def _product(by_alpha: Sequence[Sequence[RewardedAnswer]]) -> float:
    means = [
        [np.mean([answer.rewards[name] for answer in answers]) for name in OBJECTIVES]
        for answers in by_alpha
    ]
    return mean_inner_product(np.array(means), np.array(TUNING_ALPHAS), SCALE)


def _records(path: Path) -> dict[str, dict]:
    return {record["id"]: record for record in read_records(path)}


def _answers_of(record: Mapping) -> list[RewardedAnswer]:
    return [RewardedAnswer(**answer) for answer in record["answers"]]


def _work(folder: Path, sizes: Sizes, units: Sequence[str], path: Path) -> None:
    """Measure ``units`` on an engine of this process's own."""
    engine = open_engine("demo", EngineOptions(max_rows=ROWS, arms=adapters(folder)))
    journal = Journal.resume(path, surveyed(path), again=set())
    try:
        for unit in units:
            journal.write({"id": unit, **asyncio.run(_measured(engine, unit, sizes))})
    finally:
        journal.close()
        engine.close()


async def _measured(engine: Engine, unit: str, sizes: Sizes) -> dict:
    part, what, *rest = unit.split("/")
    some = part_items("test" if part == "test" else "validation", sizes)
    if what == "pool":
        start = int(rest[0])
        pools = await pooled(engine, some[start : start + POOL_ITEMS], sizes.seed)
        return {"pools": [[asdict(sample) for sample in pool] for pool in pools]}
    share, weight = float(rest[0]), float(rest[1])
    [alpha] = [mix for mix in (*ALPHAS, *TUNING_ALPHAS) if mix[0] == share][:1]
    return {
        "answers": [asdict(answer) for answer in await decoded(engine, what, some, alpha, weight)]
    }
