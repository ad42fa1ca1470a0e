"""The demo world as an Inspect task: ``inspect eval preftilt/demo_world --model preftilt/demo -T lam=3``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from inspect_ai import Task, task
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.demo.world import Split, WorldItem, check, items
from preftilt.eval.harness.benchmark import (
    BenchmarkProtocol,
    Case,
    ask,
    choose_method,
    one_of,
)
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.judge import metrics_for, numbers, scoring
from preftilt.eval.harness.solver import answer, make_task, samples
from preftilt.eval.provider import plainly

VALUES = ("following", "helpful", "violates")

PROTOCOL = BenchmarkProtocol(
    settings={"lambda": 3.0, "temperature": 1.0, "max_tokens": 160},
    searches={"best-of-n": {"n": 16}, "dvts": {"subtrees": 4, "width": 4}},
)
"""λ and N of the demo's own report, for a model of its world; answers there are a few sentences long."""


@task
def demo_world(
    split: str = "test",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """Answers to the demo world's questions under a preference, checked exactly; needs no judge and no data."""
    with plainly():
        chosen_split: Split = one_of("split", split, get_args(Split))
        chosen = choose_method(
            PROTOCOL, lam=lam, search=search, n=n, method=method, settings=settings
        )
        budget = Budget(max_tokens_total=max_tokens_total)
    return make_task(
        f"demo_world/{split}",
        samples(
            Case(
                item.id,
                ask(item.question, item.preference),
                {"item": asdict(item), "preference": item.preference},
            )
            for item in items(chosen_split)
        ),
        method=chosen,
        solver=answer(chosen.to_json(), budget),
        scorer=world_check(),
        split=split,
    )


@scorer(metrics=metrics_for(VALUES, counted=("over_budget",)))
def world_check() -> Scorer:
    """Whether an answer is helpful and does not violate the preference, by the world's own rules."""

    async def score(state: TaskState, target: Target) -> Score:
        text = state.output.completion
        verdict = check(WorldItem(**state.metadata["item"]), text)
        values: dict[str, float | None] = {name: float(getattr(verdict, name)) for name in VALUES}
        return Score(
            value=numbers(values) | {"over_budget": 0.0},
            answer=text,
            explanation=f"not helpful: {verdict.cause}" if verdict.cause else None,
            metadata={"recommended": list(verdict.recommended)},
        )

    return scoring(VALUES, score, ("over_budget",))
