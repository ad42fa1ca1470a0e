"""The demo world: exact verdicts, no judge, nothing to fetch.

As an Inspect task: ``inspect eval preftilt/demo_world --model preftilt/demo -T lam=3``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import preftilt.demo.world
from preftilt.demo.world import Split, WorldItem, check, items, questions, topic
from preftilt.demo.world.writing import write_answer
from preftilt.errors import BadInput
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Opening,
    QualityPart,
    Values,
    ask,
    choose_method,
    one_of,
    rear_protocol,
)
from preftilt.eval.harness.budget import Budget
from preftilt.messages import Message
from preftilt.types import Preference

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import TaskState

LONGEST = 160
"""Tokens of an answer: the world's are a few sentences long."""

PRESETS = ("rear-paper", "rear-official")

FILLER = 60
"""Exchanges about other topics that are kept to insert."""

VALUES = ("following", "helpful", "violates")

TASK_PROTOCOL = BenchmarkProtocol(
    settings={"lambda": 3.0, "temperature": 1.0, "max_tokens": LONGEST},
    searches={"best-of-n": {"n": 16}, "dvts": {"subtrees": 4, "width": 4}},
)
"""Of the Inspect task: λ and N of the demo's own report, for a model of its world."""


def open_world(opening: Opening) -> Benchmark:
    """λ is chosen on the world's own validation split; all of the preset's other settings are REAR's."""
    if opening.switches:
        raise BadInput(f"the demo world has no switch {next(iter(opening.switches))!r}")
    return Benchmark(
        name="demo-world",
        title="Demo world",
        metrics=VALUES,
        fault="violates",
        parts=(
            QualityPart("helpful", "helpful (%)"),
            QualityPart("violates", "preference kept (%)", inverted=True),
        ),
        protocol=rear_protocol(one_of("preset", opening.preset, PRESETS), max_tokens=LONGEST),
        switches={"preset": opening.preset, "generate_with": "full", "counting": "messages"},
        test=lambda inserted: _cases(items("test")[: opening.limit], inserted),
        validation=lambda: _cases(items("validation")[: opening.validation], 0),
        contexts=True,
        check=_check,
        verdicts=_checker(),
    )


@cache
def _checker() -> str:
    """A hash of the world and its checker, as both are code."""
    folder = Path(preftilt.demo.world.__file__).parent
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".toml"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _cases(chosen: Sequence[WorldItem], inserted: int) -> list[Case]:
    return [
        Case(
            item.id,
            BenchmarkRequest(
                messages=(*_inserted(item, inserted), Message("user", item.question)),
                preferences=(Preference(item.preference),),
            ),
            asdict(item),
        )
        for item in chosen
    ]


def _inserted(item: WorldItem, count: int) -> Sequence[Message]:
    """Messages about other topics than the item's, user and assistant in turns; an odd number ends on a user's."""
    messages = [
        message for topic, exchange in _exchanges() if topic != item.topic for message in exchange
    ]
    if count > len(messages):
        raise BadInput(f"the demo world has {len(messages)} messages to insert, fewer than {count}")
    return messages[:count]


@cache
def _exchanges() -> tuple[tuple[str, tuple[Message, Message]], ...]:
    """Questions of the world with answers as it writes them where nobody stated a preference."""
    rng = random.Random("inserted turns")
    chosen = rng.sample(questions("train"), FILLER)
    return tuple(
        (
            question.topic,
            (
                Message("user", question.text),
                Message("assistant", write_answer(rng, topic(question.topic), question.subject)),
            ),
        )
        for question in chosen
    )


def _check(case: Case, answer: str) -> Values:
    verdict = check(WorldItem(**case.facts), answer)
    return {name: float(getattr(verdict, name)) for name in VALUES}


@lazy_inspect.task("demo_world")
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
    from preftilt.eval.harness.solver import make_task, samples

    chosen_split: Split = one_of("split", split, get_args(Split))
    chosen = choose_method(
        TASK_PROTOCOL, lam=lam, search=search, n=n, method=method, settings=settings
    )
    cases = [
        Case(
            item.id,
            ask(item.question, item.preference),
            {"item": asdict(item), "preference": item.preference},
        )
        for item in items(chosen_split)
    ]
    return make_task(
        f"demo_world/{split}",
        samples(cases),
        method=chosen,
        budget=Budget(max_tokens_total=max_tokens_total),
        scorer=world_check(),
        split=split,
    )


@lazy_inspect.scorer(VALUES, ("over_budget",))
def world_check() -> Scorer:
    """Whether an answer is helpful and does not violate the preference, by the world's own rules."""
    from inspect_ai.scorer import Score

    from preftilt.eval.harness.judge import numbers, scoring

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
