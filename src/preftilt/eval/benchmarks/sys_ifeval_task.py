"""S-IFEval as an Inspect task::

inspect eval preftilt/sys_ifeval --model preftilt/smollm2 -T data=../shared/data --limit 20
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.eval.benchmarks.sys_ifeval import (
    METRICS,
    PROTOCOL,
    check_answer,
    load_items,
    request_for,
)
from preftilt.eval.harness.benchmark import Case, choose_method, one_of
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import metrics_for, numbers, scoring
from preftilt.eval.harness.solver import answer, make_task, samples
from preftilt.eval.provider import plainly

SPLITS = ("test", "validation", "all")


@task
def sys_ifeval(
    data: str,
    hub_split: str = "train",
    split: str = "test",
    rows: str = "short",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """S-IFEval: constraints in the system message, checked by IFEval's programs; no judge.

    data: folder, or ``hub:OWNER/NAME``; hub_split: of the hub's. split: ``test``, ``validation`` (the third that λ is
    chosen on) or ``all``. rows: ``short``, those that an answer of 200 tokens can meet, or ``all``. The others are
    those of every task.
    """
    with plainly():
        chosen = choose_method(
            PROTOCOL, lam=lam, search=search, n=n, method=method, settings=settings
        )
        which = one_of("split", split, SPLITS)
        short = one_of("rows", rows, ("short", "all")) == "short"
        items = [
            item
            for item in load_items(data, hub_split)
            if which in ("all", item.split) and (item.can_be_short or not short)
        ]
        budget = Budget(max_tokens_total=max_tokens_total)
    return make_task(
        f"sys_ifeval/{split}",
        samples(
            Case(item.id, request_for(item), {"item": asdict(item), "preference": item.preference})
            for item in items
        ),
        method=chosen,
        solver=answer(chosen.to_json(), budget),
        scorer=constraints_met(),
        split=split,
        rows=rows,
    )


@scorer(metrics=metrics_for(METRICS, counted=("over_budget",)))
def constraints_met() -> Scorer:
    """Whether an answer meets its constraints, by IFEval's own checkers."""

    async def score(state: TaskState, target: Target) -> Score:
        item = state.metadata["item"]
        text = state.output.completion
        checked = check_answer(item["constraints"], item["arguments"], item["prompt"], text)
        values = {name: checked[name] for name in METRICS}
        rest = {name: value for name, value in checked.items() if name not in METRICS}
        return Score(value=numbers(values) | {"over_budget": 0.0}, answer=text, metadata=rest)

    return scoring(METRICS, score, ("over_budget",))
