"""MMHal-Bench as an Inspect task.

::

    inspect eval preftilt/mmhal --model preftilt/llava-hf/llava-1.5-7b-hf -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from typing import Any

from inspect_ai import Task, task
from inspect_ai.scorer import Metric, Score, Scorer, Target, grouped, scorer
from inspect_ai.solver import TaskState

from preftilt.eval.benchmarks.mmhal import (
    VALUES,
    case_of,
    check_wish,
    load_items,
    load_pictures,
    method_protocol,
    rate,
    read_rating,
    rules_for,
)
from preftilt.eval.harness.benchmark import choose_method, one_of
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import (
    InspectJudge,
    JudgeSettings,
    average,
    judge_within,
    judged,
    metrics_for,
    scoring,
)
from preftilt.eval.harness.rows import load_templates
from preftilt.eval.harness.solver import answer, make_task, samples
from preftilt.eval.provider import plainly

JUDGE = JudgeSettings(max_tokens=512, temperature=0.0)
"""As in the REAR paper; the benchmark's own judge is of 2023 and has no limit of its own."""

GAPS = {"rating": frozenset({"image_content", "question", "reference_answer", "response"})}
"""The judge's prompts and their gaps."""


@task
def mmhal(
    data: str,
    fetch: bool = False,
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
    """Questions about pictures; the judge rates how informative an answer is and whether it makes something up.

    data: folder. fetch: get missing pictures from their addresses. preset: ``rear-paper``, ``rear-official`` or
    ``mmhal``; switches: changes to it (``mmhal.MMHalRules``), as JSON. judge_prompts: a folder with
    ``judge_rating.txt``. The others are those of every task.
    """
    with plainly():
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
        rules = rules_for(preset, switches)
        chosen = choose_method(
            method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
        )
        check_wish(rules, chosen)
        items = load_items(data)
        pictures = load_pictures(data, items, fetch=fetch)
        scorer = mmhal_ratings(judge_prompts, rules.junk, max_judge_calls, max_tokens_total, budget)
    return make_task(
        "mmhal",
        samples(case_of(item, pictures[item.id], rules) for item in items),
        method=chosen,
        judge=InspectJudge(JUDGE, budget),
        solver=answer(chosen.to_json(), budget),
        scorer=scorer,
        protocol=rules.to_json(),
        items=len(items),
    )


def _metrics() -> dict[str, list[Metric]]:
    """Those of every benchmark, and the ratings by the type of question."""
    metrics = metrics_for(VALUES)
    metrics["rating"].append(grouped(average(), "question_type", all=False))
    return metrics


@scorer(metrics=_metrics())
def mmhal_ratings(
    judge_prompts: str | None = None,
    junk: str = "unscored",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """How informative an answer is and whether it makes something up, by one judgement of a judge who knows what is in
    the picture and does not see it. ``budget`` is the task's, shared with its solver."""
    prompts = load_templates("mmhal", "judge_{}.txt", GAPS, judge_prompts)
    one_of("junk", junk, ("unscored", "zero"))
    judge = judge_within(JUDGE, budget, max_judge_calls, max_tokens_total)

    async def score(state: TaskState, target: Target) -> Score:
        gaps = {
            "image_content": ", ".join(state.metadata["image_content"]),
            "question": str(state.metadata["question"]),
            "reference_answer": target.text,
            "response": state.output.completion,
        }
        said = await judge.ask(prompts.fill("rating", gaps), read_rating)
        rating = 0 if said.failure == "junk" and junk == "zero" else said.value
        return judged(
            rate(rating),
            {"rating": said},
            answer=state.output.completion,
            metadata={"wording": prompts.to_json()},
            budget=judge.budget,
        )

    return scoring(VALUES, score)
