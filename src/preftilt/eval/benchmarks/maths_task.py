"""MATH-500, AIME 2024 and AMC 2023 as Inspect tasks.

::

    inspect eval preftilt/math500 --model preftilt/Qwen/Qwen2.5-7B-Instruct -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspect_ai import Task, task
from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.eval.benchmarks.maths import (
    CHOICES,
    SOURCES,
    SetName,
    case_of,
    check_installed,
    checker,
    choose,
    columns,
    curve,
    load_items,
    method_protocol,
    right,
    rules_for,
)
from preftilt.eval.harness.benchmark import TaskMethod, choose_method, read_request
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import SPENT, metrics_for, no_answer, numbers
from preftilt.eval.harness.solver import RECORD, answer_request, make_task, samples, say, within
from preftilt.eval.provider import PreftiltAPI, plainly
from preftilt.rivals.votes import final_answer

Json = str | dict[str, Any] | None

GREEDY = "preftilt:greedy"
"""Where in a sample's store its greedy answer is: in the first epoch, as it is the same in all."""

COUNTS = ("no_answer", "unchecked", "over_budget")
"""What is counted: answers without a final answer (they are wrong), answers whose check took too long (they have no
score), and items that the budget did not allow."""


def _solved(name: SetName) -> Callable[..., Task]:
    """The task of one set of problems. All arguments are named: Inspect reads them off the signature."""

    @task(name=name)
    def maths(
        data: str,
        split: str | None = None,
        preset: str = "rear-paper",
        preference: str = "full",
        greedy: bool = True,
        lam: float | None = None,
        search: str | None = None,
        n: int | None = None,
        method: str | None = None,
        settings: Json = None,
        switches: Json = None,
        max_tokens_total: int | None = None,
    ) -> Task:
        """Problems of mathematics, answered and checked.

        data: folder, or ``hub:OWNER/NAME``; split: of the hub's. preset: ``rear-paper`` or ``rear-official``; switches:
        changes to it (``maths.MathsRules``), as JSON. preference: ``full``, ``brief`` or ``unrelated``. greedy: also
        measure the model's greedy answer. The others are those of every task.
        """
        with plainly():
            budget = Budget(max_tokens_total=max_tokens_total)
            check_installed()
            rules = rules_for(preset, preference, switches)
            chosen = choose_method(
                method_protocol(rules),
                lam=lam,
                search=search,
                n=n,
                method=method,
                settings=settings,
            )
            cases = [case_of(item, rules) for item in load_items(data, name, split=split)]
        # Only best-of-n draws candidates of which the first ones are what a smaller n would have drawn.
        drawn = chosen.settings["search"]
        sizes = curve(int(drawn["n"])) if drawn["name"] == "best-of-n" else []
        return make_task(
            name,
            samples(cases),
            method=chosen,
            solver=maths_answer(chosen.to_json(), greedy, budget),
            scorer=maths_answers(sizes, greedy),
            epochs=SOURCES[name].repeats,
            protocol=rules.to_json(),
            items=len(cases),
            items_of_benchmark=SOURCES[name].rows,
        )

    return maths


math500 = _solved("math500")
"""500 problems of the MATH test set."""

aime24 = _solved("aime24")
"""30 problems of AIME 2024, each answered 10 times (``--epochs``)."""

amc23 = _solved("amc23")
"""40 problems of AMC 2023, each answered 10 times (``--epochs``)."""


@solver
def maths_answer(
    method: dict[str, Any], greedy: bool = True, budget: Budget | None = None
) -> Solver:
    """Answers ``metadata["request"]`` greedily under the same prompt (``greedy``), and by a method."""
    how = TaskMethod(settings=method["settings"], chosen=tuple(method["chosen"]))
    limits = budget or Budget()

    async def answer(state: TaskState) -> None:
        request = read_request(state.metadata["request"])
        if greedy and state.epoch == 1 and isinstance(get_model().api, PreftiltAPI):
            plain = {"search": {"name": "greedy"}, "max_tokens": how.settings["max_tokens"]}
            text = await say(state, request.conversation(), limits, settings=plain, part="/greedy")
            state.store.set(GREEDY, text)
        await answer_request(state, request, how, limits)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await within(limits, state, lambda: answer(state))

    return solve


@scorer(metrics=metrics_for(["correct", "greedy", *(f"{choice}*" for choice in CHOICES)], COUNTS))
def maths_answers(curve_of: list[int] | None = None, greedy: bool = True) -> Scorer:
    """Whether the answer is right, and whether other choices from the same candidates are.

    curve_of: sizes at which the pool is looked at besides its own. greedy: whether there is a greedy answer to check.
    """
    sizes = curve_of or []

    async def score(state: TaskState, target: Target) -> Score:
        with_pool = isinstance(get_model().api, PreftiltAPI)
        names = ["correct", *(["greedy"] if greedy and with_pool else [])]
        names += columns(sizes) if with_pool else []
        spent = state.store.get(SPENT)
        if spent is not None:
            return no_answer(names, spent, COUNTS)
        text, check = state.output.completion, checker(target.text)
        values = {"correct": right(text, check)}
        if (first := state.store.get(GREEDY)) is not None:
            values["greedy"] = right(first, check)
        if with_pool and (record := state.store.get(RECORD)) is not None:
            values |= choose(record, sizes, check)
        final, unchecked = final_answer(text), values["correct"] is None
        counted = (float(final is None), float(unchecked), 0.0)
        return Score(
            value=numbers(dict.fromkeys(names) | values) | dict(zip(COUNTS, counted, strict=True)),
            answer=final,
            explanation="checking this answer took too long" if unchecked else None,
            reason="invalid_response_format" if final is None else None,
        )

    return score
