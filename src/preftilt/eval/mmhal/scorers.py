"""MMHal-Bench's scorer: one judgement an answer, by a judge who knows what is in the picture and does not see it."""

from __future__ import annotations

from inspect_ai.scorer import Metric, Score, Scorer, Target, grouped, scorer
from inspect_ai.solver import TaskState

from preftilt.eval.harness.budget import shared_budget
from preftilt.eval.harness.judge_client import InspectJudge, JudgeSettings
from preftilt.eval.harness.method import one_of
from preftilt.eval.harness.prompt_files import load_templates
from preftilt.eval.harness.scores import average, judged, metrics_for, no_answer
from preftilt.eval.harness.solver import SPENT
from preftilt.eval.mmhal.protocol import PACKAGE, Junk
from preftilt.eval.mmhal.verdicts import VALUES, rate, read_rating

JUDGE = JudgeSettings(max_tokens=512, temperature=0.0)
"""As in the REAR paper; the benchmark's own judge is of 2023 and has no limit of its own."""

GAPS = {"rating": frozenset({"image_content", "question", "reference_answer", "response"})}
"""The judge's prompts and their gaps."""


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
    """How informative an answer is and whether it makes something up.

    ``budget`` is the task's, shared with its solver; a scorer that is made again from a log gets a new one.
    """
    prompts = load_templates(PACKAGE, "judge_{}.txt", GAPS, judge_prompts)
    rule: Junk = one_of("junk", junk, ("unscored", "zero"))
    shared = shared_budget(budget, max_judge_calls, max_tokens_total)
    judge = InspectJudge(JUDGE, shared)

    async def score(state: TaskState, target: Target) -> Score:
        spent = state.store.get(SPENT)
        if spent is not None:
            return no_answer(VALUES, spent, of_judge=True)
        gaps = {
            "image_content": ", ".join(state.metadata["image_content"]),
            "question": str(state.metadata["question"]),
            "reference_answer": target.text,
            "response": state.output.completion,
        }
        said = await judge.ask(prompts.fill("rating", gaps), read_rating)
        rating = 0 if said.failure == "junk" and rule == "zero" else said.value
        return judged(
            rate(rating),
            {"rating": said},
            answer=state.output.completion,
            metadata={"wording": prompts.to_json()},
            budget=judge.budget,
        )

    return score
