"""PrefEval's scorers: four checks by a judge, or the letter of a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.engines.loop import together
from preftilt.errors import BadInput
from preftilt.eval.harness.budget import shared_budget
from preftilt.eval.harness.judge_client import InspectJudge, Judgement, JudgeSettings
from preftilt.eval.harness.prompt_files import PromptTemplates, load_templates
from preftilt.eval.harness.scores import judged, metrics_for, no_answer, numbers
from preftilt.eval.harness.solver import SPENT
from preftilt.eval.prefeval.conversations import PACKAGE
from preftilt.eval.prefeval.protocol import Junk
from preftilt.eval.prefeval.verdicts import (
    VALUES,
    Acknowledged,
    outcome,
    read_acknowledged,
    read_choice,
    read_yes_no,
    settle,
)

JUDGE = JudgeSettings(max_tokens=100, temperature=0.0)
"""As in the benchmark and in the REAR paper."""

GAPS = {
    "acknowledge": frozenset({"question", "end_generation"}),
    "violation": frozenset({"preference", "question", "end_generation"}),
    "hallucination": frozenset({"preference", "assistant_restatement"}),
    "helpful": frozenset({"question", "end_generation"}),
}
"""The checks and the gaps of their prompts, which are the benchmark's, so that its files fit."""

CHOICE_VALUES = ("correct",)
CHOICE_COUNTS = ("no_choice", "over_budget")


def load_prompts(folder: str | None, checks: int) -> PromptTemplates:
    """All four prompts, or the two that the headline number needs; from the benchmark's folder if one is given."""
    if checks not in (2, 4):
        raise BadInput(f"checks is {checks}; use 4, or 2 for the headline number alone")
    names = list(GAPS) if checks == 4 else ["violation", "helpful"]
    return load_templates(PACKAGE, "check_{}.txt", {name: GAPS[name] for name in names}, folder)


@scorer(metrics=metrics_for(VALUES))
def prefeval_checks(
    checks: int = 4,
    judge_prompts: str | None = None,
    judge_junk: Junk = "unscored",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """Whether an answer follows the preference, by the judge's checks of it.

    ``budget`` is the task's, shared with its solver. ``inspect score`` makes scorers again from the arguments in a log,
    where that object is only its class's name: the budget is then a new one.
    """
    prompts = load_prompts(judge_prompts, checks)
    shared = shared_budget(budget, max_judge_calls, max_tokens_total)
    judge = InspectJudge(JUDGE, shared)

    async def score(state: TaskState, target: Target) -> Score:
        spent = state.store.get(SPENT)
        if spent is not None:
            return no_answer(VALUES, spent, of_judge=True)
        said = await _judge(judge, prompts, state)
        return judged(
            _outcome(said, judge_junk),
            said,
            answer=state.output.completion,
            metadata={"wording": prompts.to_json()},
            budget=judge.budget,
        )

    return score


@scorer(metrics=metrics_for(CHOICE_VALUES, CHOICE_COUNTS))
def prefeval_choice_made() -> Scorer:
    """Whether the option chosen is the fitting one. An answer without a choice is wrong, and counted."""

    async def score(state: TaskState, target: Target) -> Score:
        spent = state.store.get(SPENT)
        if spent is not None:
            value = numbers({"correct": None}) | {"no_choice": 0.0, "over_budget": 1.0}
            return Score(value=value, reason="budget_spent", explanation=spent)
        letter = read_choice(state.output.completion)
        return Score(
            value={
                "correct": float(letter == target.text),
                "no_choice": float(letter is None),
                "over_budget": 0.0,
            },
            answer=letter,
            reason=None if letter else "invalid_response_format",
            explanation=f"the fitting option is {target.text}",
        )

    return score


async def _judge(
    judge: InspectJudge, prompts: PromptTemplates, state: TaskState
) -> dict[str, Judgement[Any]]:
    """The checks side by side; the restatement is checked only where there is one."""
    gaps = {
        "preference": str(state.metadata["preference"]),
        "question": str(state.metadata["question"]),
        "end_generation": state.output.completion,
    }
    readers = {
        "acknowledge": read_acknowledged,
        "violation": read_yes_no,
        "helpful": read_yes_no,
    }
    checks = [name for name in readers if name in prompts.of]
    answers = await together(judge.ask(prompts.fill(name, gaps), readers[name]) for name in checks)
    said = dict(zip(checks, answers, strict=True))
    acknowledged = said["acknowledge"].value if "acknowledge" in said else None
    if isinstance(acknowledged, Acknowledged) and acknowledged.restatement:
        gaps["assistant_restatement"] = acknowledged.restatement
        prompt = prompts.fill("hallucination", gaps)
        said["hallucination"] = await judge.ask(prompt, read_yes_no)
    return said


def _outcome(said: Mapping[str, Judgement[Any]], junk: Junk) -> dict[str, float | None]:
    first = said["acknowledge"].value if "acknowledge" in said else None
    acknowledged = first.verdict if isinstance(first, Acknowledged) else None
    hallucinated = said["hallucination"].value if "hallucination" in said else None
    if isinstance(first, Acknowledged) and not first.restatement:
        hallucinated = False

    def settled(check: str, verdict: bool | None, official: bool) -> bool | None:
        unread = check in said and said[check].failure == "junk"
        return settle(verdict, junk, unread=unread, official=official)

    return outcome(
        acknowledged=settled("acknowledge", acknowledged, False),
        hallucinated=settled("hallucination", hallucinated, False),
        violates=settled("violation", said["violation"].value, False),
        helpful=settled("helpful", said["helpful"].value, True),
    )
