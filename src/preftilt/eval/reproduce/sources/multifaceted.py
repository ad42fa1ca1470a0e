"""Multifaceted Bench: a grade of the judge for each of an answer's rubrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preftilt.eval.harness.budget import Budget
from preftilt.eval.multifaceted.data import ROWS, MultifacetedItem, load_items
from preftilt.eval.multifaceted.protocol import (
    MultifacetedRules,
    judged_instruction,
    method_protocol,
    request_for,
    rules_for,
)
from preftilt.eval.reproduce.benchmark import Benchmark, Case, Opening, verdicts_mark
from preftilt.eval.reproduce.judging import judged_by

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer


def open_multifaceted(opening: Opening) -> Benchmark:
    """The mean grade of an answer divided by 5, as in the paper."""
    data = opening.folder("Multifaceted Bench")
    rules = rules_for(opening.preset, opening.switches)
    items = load_items(data)
    test, validation = opening.split(items)

    def scorer(budget: Budget) -> Scorer:
        from preftilt.eval.multifaceted.scorers import multifaceted_rubrics

        return multifaceted_rubrics(
            judge_prompts=opening.judge_prompts,
            judge_runs=rules.judge_runs,
            missing=rules.missing,
            budget=budget,
        )

    return Benchmark(
        name="multifaceted",
        title="Multifaceted Bench",
        metrics=("score",),
        protocol=method_protocol(rules),
        switches={**rules.to_json(), "rows there": f"{len(items)} of {ROWS}"},
        test=lambda _: [_case(item, rules) for item in test],
        validation=lambda: [_case(item, rules) for item in validation],
        judge=judged_by("multifaceted", scorer, opening),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


def _case(item: MultifacetedItem, rules: MultifacetedRules) -> Case:
    facts = {
        "preference": item.system,
        "instruction": judged_instruction(item, rules),
        "reference_answer": item.reference,
        "rubrics": [rubric.to_text() for rubric in item.rubrics],
    }
    return Case(item.id, request_for(item, rules), facts)
