"""Multifaceted Bench's scorer: one judgement for each rubric and run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.engines.loop import together
from preftilt.eval.harness.budget import shared_budget
from preftilt.eval.harness.judge_client import InspectJudge, Judgement, JudgeSettings
from preftilt.eval.harness.method import one_of
from preftilt.eval.harness.prompt_files import PromptTemplates, load_templates
from preftilt.eval.harness.scores import judged, metrics_for, no_answer
from preftilt.eval.harness.solver import SPENT
from preftilt.eval.multifaceted.grades import VALUES, rate, read_grade
from preftilt.eval.multifaceted.protocol import Missing

PACKAGE = "preftilt.eval.multifaceted"

JUDGE = JudgeSettings(max_tokens=1024, temperature=1.0, top_p=0.9, attempts=6)
"""As in the benchmark and in the REAR paper; a grade that cannot be read is asked for up to five times more."""

GAPS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "rubric": frozenset({"instruction", "response", "reference_answer", "rubric"}),
}
"""The judge's system message and prompt, and their gaps."""


@scorer(metrics=metrics_for(VALUES))
def multifaceted_rubrics(
    judge_prompts: str | None = None,
    judge_runs: int = 1,
    missing: str = "skip-grade",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """The mean grade of an answer over its rubrics.

    ``budget`` is the task's, shared with its solver; a scorer that is made again from a log gets a new one.
    """
    prompts = load_templates(PACKAGE, "judge_{}.txt", GAPS, judge_prompts)
    rule: Missing = one_of("missing", missing, ("skip-grade", "skip-row"))
    shared = shared_budget(budget, max_judge_calls, max_tokens_total)
    judge = InspectJudge(JUDGE, shared)

    async def score(state: TaskState, target: Target) -> Score:
        spent = state.store.get(SPENT)
        if spent is not None:
            return no_answer(VALUES, spent, of_judge=True)
        said = await _grades(judge, prompts, state, judge_runs)
        return judged(
            rate([judgement.value for judgement in said.values()], rule),
            said,
            answer=state.output.completion,
            metadata={
                "wording": prompts.to_json(),
                "grades": {name: judgement.value for name, judgement in said.items()},
            },
            budget=judge.budget,
        )

    return score


async def _grades(
    judge: InspectJudge, prompts: PromptTemplates, state: TaskState, runs: int
) -> Mapping[str, Judgement[int]]:
    """All grades side by side, by rubric and run ("rubric 2", "rubric 2, run 3")."""
    requests: dict[str, Any] = {}
    for number, rubric in enumerate(state.metadata["rubrics"], start=1):
        prompt = prompts.fill(
            "rubric",
            {
                "instruction": str(state.metadata["instruction"]),
                "response": state.output.completion,
                "reference_answer": str(state.metadata["reference_answer"]),
                "rubric": str(rubric),
            },
        )
        for run in range(1, runs + 1):
            name = f"rubric {number}" if runs == 1 else f"rubric {number}, run {run}"
            requests[name] = judge.ask(
                prompt, read_grade, system=prompts.fill("system", {}), run=run
            )
    answers = await together(requests.values())
    return dict(zip(requests, answers, strict=True))
