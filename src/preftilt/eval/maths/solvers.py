"""How a problem is answered: by the model's most likely words, for comparison, and by the method."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.method import TaskMethod
from preftilt.eval.harness.request import read_request
from preftilt.eval.harness.solver import answer_request, say, within
from preftilt.eval.provider import PreftiltAPI

GREEDY = "preftilt:greedy"
"""Where in a sample's store its greedy answer is: in the first epoch, as it is the same in all."""


@solver
def maths_answer(
    method: dict[str, Any], greedy: bool = True, budget: Budget | None = None
) -> Solver:
    """Answers ``metadata["request"]`` greedily under the same prompt (``greedy``), and by a method."""
    how = TaskMethod(settings=method["settings"], chosen=tuple(method["chosen"]))
    limits = budget or Budget()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await within(limits, state, lambda: _answer(state, how, greedy, limits))

    return solve


async def _answer(state: TaskState, method: TaskMethod, greedy: bool, budget: Budget) -> None:
    request = read_request(state.metadata["request"])
    if greedy and state.epoch == 1 and isinstance(get_model().api, PreftiltAPI):
        plain = {"search": {"name": "greedy"}, "max_tokens": method.settings["max_tokens"]}
        text = await say(state, request.conversation(), budget, settings=plain, part="/greedy")
        state.store.set(GREEDY, text)
    await answer_request(state, request, method, budget)
