"""PingPong's scorer: one judgement of a whole dialogue, three ratings a turn."""

from __future__ import annotations

from dataclasses import asdict

from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.eval.harness.budget import shared_budget
from preftilt.eval.harness.judge_client import InspectJudge
from preftilt.eval.harness.method import one_of
from preftilt.eval.harness.prompt_files import PromptTemplates, load_templates
from preftilt.eval.harness.scores import COUNTS, judged, metrics_for, no_answer
from preftilt.eval.harness.solver import SPENT
from preftilt.eval.pingpong.dialogue import PACKAGE, turns_for_judge
from preftilt.eval.pingpong.protocol import Refusals, judge_settings
from preftilt.eval.pingpong.solvers import BROKEN, RAW, SAID
from preftilt.eval.pingpong.verdicts import SCALES, VALUES, rate, reader
from preftilt.messages import Message

OWN_COUNTS = ("raw_turns", "broken")
"""What is counted besides: turns of the user that came without JSON, and dialogues that ended early (no score)."""


GAPS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "user": frozenset({"character", "dialogue"}),
}
"""The judge's system message and prompt, and their gaps."""


@scorer(metrics=metrics_for(VALUES, (*COUNTS, *OWN_COUNTS)))
def pingpong_ratings(
    preset: str = "rear-paper",
    refusals: str = "rated",
    judge_prompts: str | None = None,
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """The judge's ratings of a dialogue.

    ``budget`` is the task's, shared with its solver; a scorer that is made again from a log gets a new one.
    """
    prompts = load_templates(PACKAGE, "judge_{}.txt", GAPS, judge_prompts)
    rule: Refusals = one_of("refusals", refusals, ("rated", "excluded"))
    shared = shared_budget(budget, max_judge_calls, max_tokens_total)
    judge = InspectJudge(judge_settings(preset), shared)

    async def score(state: TaskState, target: Target) -> Score:
        spent, broken = state.store.get(SPENT), state.store.get(BROKEN)
        if spent is not None or broken is not None:
            return _unheld(spent, broken)
        return await _score(judge, prompts, state, rule)

    return score


async def _score(
    judge: InspectJudge, prompts: PromptTemplates, state: TaskState, rule: Refusals
) -> Score:
    said = [Message(**message) for message in state.store.get(SAID)]
    turns = sum(message.role == "user" for message in said)
    dialogue = turns_for_judge(said)
    gaps = {"character": str(state.metadata["preference"]), "dialogue": dialogue}
    prompt, system = prompts.fill("user", gaps), prompts.fill("system", {})
    judgement = await judge.ask(prompt, reader(turns), system=system)
    rated = judgement.value
    answers = [message.content for message in said if message.role == "assistant"][-turns:]
    return judged(
        rate(rated, rule) | {"raw_turns": float(state.store.get(RAW)), "broken": 0.0},
        {"dialogue": judgement},
        answer=dialogue,
        metadata={
            "wording": prompts.to_json(),
            "scales": list(SCALES),
            "turns": [asdict(turn) for turn in rated or ()],
            "mean_answer_characters": sum(map(len, answers)) / turns,
        },
        budget=judge.budget,
    )


def _unheld(spent: str | None, broken: str | None) -> Score:
    """The score of a dialogue that was not held to its end: there is none."""
    score = no_answer(VALUES, spent or broken or "", of_judge=True)
    assert isinstance(score.value, dict)
    counted = {"raw_turns": 0.0, "broken": float(spent is None)}
    over = {} if spent is not None else {"over_budget": 0.0}
    return Score(
        value=score.value | counted | over,
        reason=score.reason if spent is not None else "dialogue_broken",
        explanation=score.explanation,
    )
