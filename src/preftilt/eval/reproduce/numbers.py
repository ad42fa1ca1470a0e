"""A benchmark's numbers for the report: the tables and figures of the experiments that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from preftilt.eval.calibrate.choice import Calibration
from preftilt.eval.reproduce import curves, experiments
from preftilt.eval.reproduce.measured import ItemMeasurements
from preftilt.eval.reproduce.methods import ComparedMethod
from preftilt.eval.reproduce.parts import MeasureSettings
from preftilt.eval.reproduce.tables import JudgedItems, table

JudgedByContext = Mapping[int, JudgedItems]
"""What is seen at each length of context, by the messages inserted."""


def tables_of(
    names: Sequence[str],
    sights: JudgedByContext,
    how: MeasureSettings,
    chosen: Sequence[Calibration],
    reference: ComparedMethod,
) -> dict[str, Any]:
    """The tables among the experiments ``names``."""
    sight = sights[0]
    makers: dict[str, Callable[[], Any]] = {
        "table1": lambda: table(
            sight,
            experiments.table_1(sight.benchmark, how, chosen, sight.verdicts),
            reference,
        ),
        "table2": lambda: [
            {"inserted": inserted, **table(one, experiments.table_2(how, chosen), reference)}
            for inserted, one in _same_items(sights).items()
        ],
        "table3": lambda: table(sight, experiments.table_3(how, chosen), reference),
        experiments.AVOIDING: lambda: table(sight, experiments.avoiding(how), reference),
    }
    return {name: make() for name, make in makers.items() if name in names}


def figures_of(
    names: Sequence[str],
    sights: JudgedByContext,
    how: MeasureSettings,
    chosen: Sequence[Calibration],
) -> dict[str, Any]:
    """What the figures among the experiments ``names`` are drawn from."""
    sight = sights[0]
    makers: dict[str, Callable[[], Any]] = {
        "fig2": lambda: curves.figure_2(sight, how),
        "fig3": lambda: curves.figure_3(sight, how),
        "fig4": lambda: curves.figure_4(sight, how),
        "fig5": lambda: curves.figure_5(_same_items(sights), experiments.table_2(how, chosen)),
        "fig6": lambda: curves.figure_6(sight, how, experiments.timed(how)),
    }
    return {name: make() for name, make in makers.items() if name in names}


def _same_items(sights: JudgedByContext) -> JudgedByContext:
    """The items that every length of context was measured on, so that lengths are compared on the same ones."""
    if len(sights) == 1:
        return sights
    common = set.intersection(
        *({item.case.stream for item in one.items if item.pool} for one in sights.values())
    )
    return {
        inserted: replace(one, items=[item for item in one.items if item.case.stream in common])
        for inserted, one in sights.items()
    }


def sureness(items: Sequence[ItemMeasurements]) -> dict[str, float]:
    """Mean probability of Yes and No together at the verdicts of each generative RM: near 1 if it understood."""
    names = sorted({name for one in items for name in one.ratings})
    found = {
        name: [one.ratings[name].sure for one in items if name in one.ratings] for name in names
    }
    known = {name: [one for one in each if one is not None] for name, each in found.items()}
    return {name: float(np.mean(each)) for name, each in known.items() if each}


def cut_off(items: Sequence[ItemMeasurements]) -> float | None:
    """The share of samples that did not come to their own end; None where none was drawn."""
    drawn = [answer for one in items if one.pool is not None for answer in one.pool.answers]
    return float(np.mean([not one.finished for one in drawn])) if drawn else None


def chosen_json(one: Calibration) -> dict[str, Any]:
    option = one.chosen.option
    return {
        "lambda": option.lam,
        "reduction": option.reduction,
        "items": one.items,
        "wins": one.chosen.wins,
        "within_reach": [each.option.lam for each in one.within_reach()],
        "quality": asdict(one.chosen.quality),
        "expected": asdict(one.expected),
    }
