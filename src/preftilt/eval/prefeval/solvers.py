"""How a PrefEval item is answered: the acknowledgement, the baseline's turns, the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.method import TaskMethod
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.harness.solver import answer_request, say, within
from preftilt.eval.prefeval.conversations import (
    Prompting,
    ShownOptions,
    own_text,
    question_text,
    request_for,
    stated_preference,
)
from preftilt.eval.prefeval.data import PrefEvalItem
from preftilt.eval.prefeval.protocol import PrefEvalRules
from preftilt.messages import Message

ACKNOWLEDGEMENT_TOKENS = 300
CRITIQUE_TOKENS = 300
REVISION_TOKENS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefEvalPlan:
    """Everything that answering needs: ``items`` and the ``options`` of multiple-choice ones, by the sample's id.

    filler: the messages to insert before the question.
    """

    rules: PrefEvalRules
    prompting: Prompting
    method: TaskMethod
    items: Mapping[str, PrefEvalItem]
    options: Mapping[str, ShownOptions]
    filler: Sequence[Message] = ()


@solver
def prefeval_answer(plan: PrefEvalPlan, budget: Budget) -> Solver:
    """Answers the sample's item by the plan."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item = plan.items[str(state.sample_id)]
        return await within(budget, state, lambda: _answer(state, item, plan, budget))

    return solve


async def _answer(state: TaskState, item: PrefEvalItem, plan: PrefEvalPlan, budget: Budget) -> None:
    rules = plan.rules
    acknowledgement = None
    if rules.preference_as == "history" and not item.history:
        acknowledgement = await say(
            state,
            stated_preference(item, rules),
            budget,
            settings=_greedy(ACKNOWLEDGEMENT_TOKENS),
            part="/acknowledgement",
        )
    question = question_text(item, rules, plan.prompting, plan.options.get(item.id))
    request = request_for(item, rules, question, plan.filler, acknowledgement)
    text = await answer_request(state, request, plan.method, budget)
    if plan.prompting == "self-critic":
        await _revise(state, request, text, plan.method, budget)


async def _revise(
    state: TaskState, request: BenchmarkRequest, text: str, method: TaskMethod, budget: Budget
) -> None:
    """The model criticises its answer and the method answers once more; the first answer stays in the messages."""
    critique_request = request.going_on(text, own_text("critique.txt"))
    critique = await say(
        state,
        critique_request.conversation(),
        budget,
        settings=_greedy(CRITIQUE_TOKENS),
        part="/critique",
    )
    again = critique_request.going_on(critique, own_text("revise.txt"))
    longer = TaskMethod(
        settings={**method.settings, "max_tokens": _longest(method)}, chosen=method.chosen
    )
    await answer_request(state, again, longer, budget, part="/revision")


def _longest(method: TaskMethod) -> int:
    """The benchmark allows a revision more tokens than an answer; a user's own limit stands."""
    limit = int(method.settings["max_tokens"])
    return limit if "max_tokens" in method.chosen else max(limit, REVISION_TOKENS)


def _greedy(max_tokens: int) -> dict[str, Any]:
    return {"search": {"name": "greedy"}, "max_tokens": max_tokens}
