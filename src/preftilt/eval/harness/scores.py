"""Scores as Inspect records them: numbers where there is a verdict, nothing where there is none.

A score is an object of numbers. An item whose judge failed has NaN for what it would have said, which Inspect leaves
out of every metric and counts, and is counted here as well, by cause; it never counts as 0. A metric over no item at
all is not a number, rather than 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from inspect_ai.scorer import Metric, SampleScore, Score, Value, metric

from preftilt.eval.bootstrap import mean_interval
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge_client import Judgement

COUNTS: tuple[str, ...] = ("judge_junk", "judge_failed", "over_budget")
"""What is counted beside every judged benchmark's numbers: judgements that cannot be read, that were not given, and
that were not asked for."""

_COUNT_OF = {"junk": "judge_junk", "failed": "judge_failed", "budget": "over_budget"}
_REASONS = {"junk": "grader_failed", "failed": "grader_failed", "budget": "budget_spent"}


def counts(judgements: Iterable[Judgement[Any]]) -> dict[str, float]:
    """How many of an item's judgements failed, by cause."""
    failures = dict.fromkeys(COUNTS, 0.0)
    for judgement in judgements:
        if judgement.failure is not None:
            failures[_COUNT_OF[judgement.failure]] += 1
    return failures


def judged(
    values: Mapping[str, float | None],
    judgements: Mapping[str, Judgement[Any]],
    *,
    answer: str,
    metadata: Mapping[str, Any],
    budget: Budget,
) -> Score:
    """The score of one item: ``values`` (None: no verdict), the counts, and what every judge said."""
    failed = [judgement for judgement in judgements.values() if judgement.failure is not None]
    first = failed[0] if failed else None
    return Score(
        value=numbers(values) | counts(judgements.values()),
        answer=answer,
        explanation=first.why if first else None,
        reason=_REASONS[first.failure] if first and first.failure else None,
        metadata={
            **metadata,
            "judgements": {name: judgement.to_json() for name, judgement in judgements.items()},
            "judge_calls_so_far": budget.judge_calls,
        },
    )


def no_answer(names: Iterable[str], why: str, *, of_judge: bool) -> Score:
    """The score of an item that was not answered because the budget was spent: there is none."""
    value = numbers(dict.fromkeys(names)) | (counts(()) if of_judge else {"over_budget": 0.0})
    return Score(value=value | {"over_budget": 1.0}, reason="budget_spent", explanation=why)


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Values as a score holds them: NaN where there is none."""
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


@metric
def average() -> Metric:
    """The mean over the items that have a score."""
    return _over_items(lambda values: float(np.mean(values)))


@metric
def low() -> Metric:
    """The lower end of the mean's 95 % interval, by the bootstrap over items."""
    return _over_items(lambda values: mean_interval(np.asarray(values)).low)


@metric
def high() -> Metric:
    """The upper end of the mean's 95 % interval, by the bootstrap over items."""
    return _over_items(lambda values: mean_interval(np.asarray(values)).high)


@metric
def items() -> Metric:
    """How many items have a score."""

    def compute(scores: list[SampleScore]) -> Value:
        return len(_values(scores))

    return compute


@metric
def total() -> Metric:
    """The sum over all items, for counts."""

    def compute(scores: list[SampleScore]) -> Value:
        return float(sum(_values(scores)))

    return compute


def metrics_for(names: Sequence[str], counted: Sequence[str] = COUNTS) -> dict[str, list[Metric]]:
    """The metrics of a benchmark's scorer: means with intervals of ``names``, totals of what is ``counted``."""
    means: dict[str, list[Metric]] = {name: [average(), low(), high(), items()] for name in names}
    return means | {name: [total()] for name in counted}


def _over_items(compute: Callable[[list[float]], float]) -> Metric:
    def computed(scores: list[SampleScore]) -> Value:
        values = _values(scores)
        return compute(values) if values else math.nan

    return computed


def _values(scores: Sequence[SampleScore]) -> list[float]:
    return [score.score.as_float() for score in scores if not math.isnan(score.score.as_float())]
