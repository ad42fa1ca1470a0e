"""Multifaceted Bench as an Inspect task.

::

    inspect eval preftilt/multifaceted --model preftilt/demo -T data=hub:kaist-ai/Multifaceted-Bench -T lam=20
"""

from __future__ import annotations

from typing import Any

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.engines.loop import together
from preftilt.eval.benchmarks.multifaceted import (
    ROWS,
    VALUES,
    Missing,
    case_of,
    load_items,
    method_protocol,
    rate,
    read_grade,
    rules_for,
)
from preftilt.eval.harness.benchmark import choose_method, one_of
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import (
    InspectJudge,
    JudgeSettings,
    judge_within,
    judged,
    metrics_for,
    scoring,
)
from preftilt.eval.harness.rows import load_templates
from preftilt.eval.harness.solver import answer, make_task, samples
from preftilt.eval.provider import plainly

JUDGE = JudgeSettings(max_tokens=1024, temperature=1.0, top_p=0.9, attempts=6)
"""As in the benchmark and in the REAR paper; a grade that cannot be read is asked for up to five times more."""

GAPS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "rubric": frozenset({"instruction", "response", "reference_answer", "rubric"}),
}
"""The judge's system message and prompt, and their gaps."""


@task
def multifaceted(
    data: str,
    preset: str = "rear-paper",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    switches: str | dict[str, Any] | None = None,
    judge_prompts: str | None = None,
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """The system message states several wishes; the judge grades the answer by a rubric for each.

    data: folder, or ``hub:OWNER/NAME``. preset: ``rear-paper``, ``rear-official`` or ``multifaceted``; switches:
    changes to it (``multifaceted.MultifacetedRules``), as JSON. judge_prompts: a folder with ``judge_system.txt`` and
    ``judge_rubric.txt``. The others are those of every task.
    """
    with plainly():
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
        rules = rules_for(preset, switches)
        chosen = choose_method(
            method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
        )
        cases = [case_of(item, rules) for item in load_items(data)]
        scorer = multifaceted_rubrics(
            judge_prompts,
            rules.judge_runs,
            rules.missing,
            max_judge_calls,
            max_tokens_total,
            budget,
        )
    return make_task(
        "multifaceted",
        samples(cases),
        method=chosen,
        judge=InspectJudge(JUDGE, budget),
        solver=answer(chosen.to_json(), budget),
        scorer=scorer,
        protocol=rules.to_json(),
        items=len(cases),
        items_of_benchmark=ROWS,
    )


@scorer(metrics=metrics_for(VALUES))
def multifaceted_rubrics(
    judge_prompts: str | None = None,
    judge_runs: int = 1,
    missing: str = "skip-grade",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """The mean grade of an answer over its rubrics, by one judgement for each rubric and run.

    ``budget`` is the task's, shared with its solver.
    """
    prompts = load_templates("multifaceted", "judge_{}.txt", GAPS, judge_prompts)
    rule: Missing = one_of("missing", missing, ("skip-grade", "skip-row"))
    judge = judge_within(JUDGE, budget, max_judge_calls, max_tokens_total)
    system = prompts.fill("system", {})

    async def score(state: TaskState, target: Target) -> Score:
        requests: dict[str, Any] = {}  # Side by side, by rubric and run.
        for number, rubric in enumerate(state.metadata["rubrics"], start=1):
            gaps = {
                "instruction": str(state.metadata["instruction"]),
                "response": state.output.completion,
                "reference_answer": str(state.metadata["reference_answer"]),
                "rubric": str(rubric),
            }
            prompt = prompts.fill("rubric", gaps)
            for run in range(1, judge_runs + 1):
                name = f"rubric {number}" if judge_runs == 1 else f"rubric {number}, run {run}"
                requests[name] = judge.ask(prompt, read_grade, system=system, run=run)
        said = dict(zip(requests, await together(requests.values()), strict=True))
        grades = {name: judgement.value for name, judgement in said.items()}
        return judged(
            rate(list(grades.values()), rule),
            said,
            answer=state.output.completion,
            metadata={"wording": prompts.to_json(), "grades": grades},
            budget=judge.budget,
        )

    return scoring(VALUES, score)
