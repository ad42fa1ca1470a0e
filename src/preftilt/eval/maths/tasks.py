"""MATH-500, AIME 2024 and AMC 2023 as Inspect tasks.

::

    inspect eval preftilt/math500 --model preftilt/Qwen/Qwen2.5-7B-Instruct -T data=../shared/data -T lam=20
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample

from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.inspect_errors import plainly
from preftilt.eval.harness.method import TaskMethod, choose_method
from preftilt.eval.harness.solver import chat, ready
from preftilt.eval.maths.checking import check_installed
from preftilt.eval.maths.data import SOURCES, MathsProblem, SetName, load_items
from preftilt.eval.maths.pool import curve
from preftilt.eval.maths.protocol import MathsRules, method_protocol, request_for, rules_for
from preftilt.eval.maths.scorers import maths_answers
from preftilt.eval.maths.solvers import maths_answer

Json = str | dict[str, Any] | None


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
        changes to it (``protocol.MathsRules``), as JSON. preference: ``full``, ``brief`` or ``unrelated``. greedy: also
        measure the model's greedy answer. The others are those of every task.
        """
        budget = Budget(max_tokens_total=max_tokens_total)
        with plainly():
            chosen = _method(preset, preference, switches, lam, search, n, method, settings)
            return _task(name, data, split, chosen, greedy, budget)

    return maths


math500 = _solved("math500")
"""500 problems of the MATH test set."""

aime24 = _solved("aime24")
"""30 problems of AIME 2024, each answered 10 times (``--epochs``)."""

amc23 = _solved("amc23")
"""40 problems of AMC 2023, each answered 10 times (``--epochs``)."""


def _method(
    preset: str,
    preference: str,
    switches: Json,
    lam: float | None,
    search: str | None,
    n: int | None,
    method: str | None,
    settings: Json,
) -> tuple[MathsRules, TaskMethod]:
    """The resolved protocol and the method by it."""
    check_installed()
    rules = rules_for(preset, preference, switches)
    chosen = choose_method(
        method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
    )
    return rules, chosen


def _task(
    name: SetName,
    data: str,
    split: str | None,
    how: tuple[MathsRules, TaskMethod],
    greedy: bool,
    budget: Budget,
) -> Task:
    rules, chosen = how
    items = load_items(data, name, split=split)
    return Task(
        dataset=MemoryDataset([_sample(item, rules) for item in items], name=name),
        setup=ready(None, chosen),
        solver=maths_answer(chosen.to_json(), greedy, budget),
        scorer=maths_answers(_sizes(chosen), greedy),
        epochs=SOURCES[name].repeats,
        metadata={
            "protocol": rules.to_json(),
            "method": chosen.to_json(),
            "items": len(items),
            "items_of_benchmark": SOURCES[name].rows,
        },
    )


def _sizes(method: TaskMethod) -> list[int]:
    """Only best-of-n draws candidates of which the first ones are what a smaller n would have drawn."""
    search = method.settings["search"]
    return curve(int(search["n"])) if search["name"] == "best-of-n" else []


def _sample(item: MathsProblem, rules: MathsRules) -> Sample:
    request = request_for(item, rules)
    return Sample(
        id=item.id,
        input=chat(request.conversation()),
        target=item.answer,
        metadata={
            "request": request.to_json(),
            "problem": item.problem,
            "preference": request.preferences[0].text,
        },
    )
