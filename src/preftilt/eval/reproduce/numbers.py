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
    judged_by_context: JudgedByContext,
    how: MeasureSettings,
    chosen: Sequence[Calibration],
    reference: ComparedMethod,
) -> dict[str, Any]:
    """The tables among the experiments ``names``."""
    judged = judged_by_context[0]
    makers: dict[str, Callable[[], Any]] = {
        "table1": lambda: table(
            judged,
            experiments.table_1(judged.benchmark, how, chosen, judged.verdicts),
            reference,
        ),
        "table2": lambda: [
            {"inserted": inserted, **table(judged, experiments.table_2(how, chosen), reference)}
            for inserted, judged in _same_items(judged_by_context).items()
        ],
        "table3": lambda: table(judged, experiments.table_3(how, chosen), reference),
        experiments.AVOIDING: lambda: table(judged, experiments.avoiding(how), reference),
    }
    return {name: make() for name, make in makers.items() if name in names}


def figures_of(
    names: Sequence[str],
    judged_by_context: JudgedByContext,
    how: MeasureSettings,
    chosen: Sequence[Calibration],
) -> dict[str, Any]:
    """What the figures among the experiments ``names`` are drawn from."""
    judged = judged_by_context[0]
    makers: dict[str, Callable[[], Any]] = {
        "fig2": lambda: curves.figure_2(judged, how),
        "fig3": lambda: curves.figure_3(judged, how),
        "fig4": lambda: curves.figure_4(judged, how),
        "fig5": lambda: curves.figure_5(
            _same_items(judged_by_context), experiments.table_2(how, chosen)
        ),
        "fig6": lambda: curves.figure_6(judged, how, experiments.timed(how)),
    }
    return {name: make() for name, make in makers.items() if name in names}


def _same_items(judged_by_context: JudgedByContext) -> JudgedByContext:
    """The items that every length of context was measured on, so that lengths are compared on the same ones."""
    if len(judged_by_context) == 1:
        return judged_by_context
    common = set.intersection(
        *(
            {item.case.stream for item in judged.items if item.pool}
            for judged in judged_by_context.values()
        )
    )
    return {
        inserted: replace(
            judged, items=[item for item in judged.items if item.case.stream in common]
        )
        for inserted, judged in judged_by_context.items()
    }


def sureness(items: Sequence[ItemMeasurements]) -> dict[str, float]:
    """Mean probability of Yes and No together at the verdicts of each generative RM: near 1 if it understood."""
    names = sorted({name for item in items for name in item.ratings})
    shares = {
        name: [item.ratings[name].sure for item in items if name in item.ratings] for name in names
    }
    known = {name: [share for share in each if share is not None] for name, each in shares.items()}
    return {name: float(np.mean(each)) for name, each in known.items() if each}


def cut_off(items: Sequence[ItemMeasurements]) -> float | None:
    """The share of samples that did not come to their own end; None where none was drawn."""
    drawn = [answer for item in items if item.pool is not None for answer in item.pool.answers]
    return float(np.mean([not answer.finished for answer in drawn])) if drawn else None


def chosen_json(calibration: Calibration) -> dict[str, Any]:
    option = calibration.chosen.option
    return {
        "lambda": option.lam,
        "reduction": option.reduction,
        "items": calibration.items,
        "wins": calibration.chosen.wins,
        "within_reach": [each.option.lam for each in calibration.within_reach()],
        "quality": asdict(calibration.chosen.quality),
        "expected": asdict(calibration.expected),
    }
