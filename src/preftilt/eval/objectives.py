"""Several objectives on the demo world, with exact rewards: what reward models are trained and measured on offline.

Rewards of an answer lie in [0, 1], higher better; the world's checker takes the answer apart, and nothing is estimated.
The objectives pull apart on purpose: an answer that helps more is longer, and heeding the preference is a matter of its
own. Preference pairs with verdicts of the objectives are written as files that ``preftilt train`` reads.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from preftilt.arm.spec import Objective
from preftilt.demo.world import (
    Split,
    WorldItem,
    WorldVerdict,
    check,
    items,
    preference,
    topic,
    topics,
)
from preftilt.demo.world.writing import write_answer, write_habit
from preftilt.engines.base import Engine, SampleRequest
from preftilt.engines.open import open_engine
from preftilt.errors import BadInput, PreftiltError
from preftilt.messages import Message
from preftilt.prompt import answer_text
from preftilt.records.lines import json_line
from preftilt.types import Sampling, Stream

FULL_COUNT = 5
"""Recommendations that make an answer as helpful as can be."""

FULL_WORDS = 80
"""Words from which on an answer is not brief at all."""

BETA = 0.1

HELPFUL = "helpful"
KEEPING = "keeping"
BRIEF = "brief"

DESCRIPTIONS = {
    HELPFUL: "Recommend many different things that answer the question.",
    KEEPING: "Follow the preference: recommend only what the user would like.",
    BRIEF: "Keep the answer short, in as few words as possible.",
}


def objectives(beta: float = BETA) -> tuple[Objective, ...]:
    """The three objectives, all with the same β."""
    return tuple(Objective(name, text, beta) for name, text in DESCRIPTIONS.items())


def rewards(item: WorldItem, answer: str) -> dict[str, float]:
    """What each objective thinks of ``answer``.

    helpful: 0 unless the checker finds it helpful, else the number of recommendations, of five at most, as a share.
    keeping: for something to avoid, the share of what is recommended that avoids it; for something wanted, twice the
    share that has it, at most 1; for a style, whether the answer has it; 0 if nothing is recommended.
    brief: 1 for no words, 0 from eighty words on.
    """
    verdict = check(item, answer)
    count = len(set(verdict.recommended))
    return {
        HELPFUL: min(count, FULL_COUNT) / FULL_COUNT if verdict.helpful else 0.0,
        KEEPING: _keeping(item, verdict),
        BRIEF: max(0.0, 1 - len(answer.split()) / FULL_WORDS),
    }


def _keeping(item: WorldItem, verdict: WorldVerdict) -> float:
    if not verdict.recommended:
        return 0.0
    if item.kind == "style":
        return float(not verdict.violates)
    key = preference(item.preference_id).key
    tags_of_each = [_tags()[recommendation] for recommendation in verdict.recommended]
    share = sum(key in tags for tags in tags_of_each) / len(tags_of_each)
    return 1 - share if item.kind == "avoid" else min(1.0, 2 * share)


@cache
def _tags() -> dict[str, frozenset[str]]:
    """The tags of every recommendation of the world, by its id."""
    return {
        recommendation.id: recommendation.tags
        for each in topics()
        for recommendation in each.recommendations
    }


MAX_TOKENS = 192

_WAYS = {"heed": 0.35, "ignore": 0.3, "oppose": 0.25, "dwell": 0.1}
"""How written answers come about: for the preference, without a look at it, against it, or by only dwelling on it."""


def conversation(item: WorldItem) -> list[Message]:
    """The item as an answer's prompt: the preference as system message, then the question."""
    return [Message("system", item.preference), Message("user", item.question)]


async def drawn_answers(
    engine: Engine, items: Sequence[WorldItem], count: int, seed: int, sampling: Sampling
) -> list[list[str]]:
    """``count`` answers to every item drawn from a model; one that was cut off is left as it is."""
    requests = [
        SampleRequest(
            prompt=engine.tokenizer.render(conversation(item)),
            slots=tuple(range(count)),
            stream=Stream(seed, item.id),
            sampling=sampling,
            max_tokens=MAX_TOKENS,
        )
        for item in items
    ]
    drawn = await engine.sample(requests)
    return [
        [answer_text(engine.tokenizer, completion.tokens) for completion in each] for each in drawn
    ]


def _written(rng: random.Random, item: WorldItem) -> str:
    where, wish = topic(item.topic), preference(item.preference_id)
    [way] = rng.choices(list(_WAYS), list(_WAYS.values()))
    if way == "dwell":
        return write_habit(rng, where, item.subject, wish)
    if way == "ignore":
        return write_answer(rng, where, item.subject)
    return write_answer(
        rng, where, item.subject, [wish], against=way == "oppose", mention=rng.random() < 0.2
    )


WRITER = "writer"
"""The source of answers that the world itself writes."""

SAME = 1e-9
"""Rewards that differ by less are alike: the objective has no verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """How pairs are made; the same settings make the same files.

    source: ``writer``, or the engine whose samples are paired (``demo``). sizes: items of train, validation and test.
    answers: for each item; every two of them whose rewards differ are a pair.
    """

    source: str = WRITER
    sizes: tuple[int, int, int] = (1500, 200, 200)
    answers: int = 2
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if min(self.sizes) < 1:
            raise BadInput("every split needs at least one item")
        if self.answers < 2:
            raise BadInput(f"answers is {self.answers}; a pair needs 2")


def write_pairs(out: Path, settings: PairSettings) -> dict[Split, int]:
    """Write ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` into ``out``; how many pairs each has.

    No question, wording of a preference, or pair of a subject and a preference is in two of them: the world divides
    them (``preftilt.demo.world.splits``).
    """
    pairs = make_pairs(settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, rows in pairs.items():
            lines = b"".join(json_line(row) + b"\n" for row in rows)
            (out / f"{split}.jsonl").write_bytes(lines)
    except OSError as failure:
        raise PreftiltError(f"cannot write to {out}: {failure.strerror}") from None
    return {split: len(rows) for split, rows in pairs.items()}


def make_pairs(settings: PairSettings) -> dict[Split, list[dict[str, Any]]]:
    """The rows of every split."""
    chosen = {
        split: some_items(split, size, settings.seed)
        for split, size in zip(get_args(Split), settings.sizes, strict=True)
    }
    if settings.source != WRITER:
        answers = asyncio.run(_drawn(settings, chosen))
        return {split: _rows(some, answers[split]) for split, some in chosen.items()}

    def written(item: WorldItem) -> list[str]:
        streams = [f"answer {settings.seed} {item.id} {slot}" for slot in range(settings.answers)]
        return [_written(random.Random(stream), item) for stream in streams]

    return {split: _rows(some, list(map(written, some))) for split, some in chosen.items()}


def some_items(split: Split, size: int, seed: int) -> list[WorldItem]:
    """``size`` items of a split, drawn again and again (all different draws) until there are enough."""
    drawn: list[WorldItem] = []
    draw = seed
    while len(drawn) < size:
        drawn += [replace(item, id=f"{item.id}-{draw}") for item in items(split, draw)]
        draw += 1
    return drawn[:size]


async def _drawn(
    settings: PairSettings, chosen: dict[Split, list[WorldItem]]
) -> dict[Split, list[list[str]]]:
    engine = open_engine(settings.source)
    try:
        return {
            split: await drawn_answers(
                engine, some, settings.answers, settings.seed, settings.sampling
            )
            for split, some in chosen.items()
        }
    finally:
        engine.close()


def _rows(some: Sequence[WorldItem], answers: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    return [
        row
        for item, texts in zip(some, answers, strict=True)
        for first, second in combinations(texts, 2)
        if (row := _row(item, first, second)) is not None
    ]


def _row(item: WorldItem, first: str, second: str) -> dict[str, Any] | None:
    """A row, or None for two answers between which no objective tells a difference."""
    if not (first.strip() and second.strip()):
        return None
    both = [rewards(item, text) for text in (first, second)]
    preferred = {
        name: int(both[1][name] > both[0][name])
        for name in both[0]
        if abs(both[0][name] - both[1][name]) > SAME
    }
    if not preferred:
        return None
    return {
        "id": item.id,
        "messages": [
            {"role": message.role, "content": message.content} for message in conversation(item)
        ],
        "responses": [first, second],
        "preferred": preferred,
        "rewards": {name: [of_answer[name] for of_answer in both] for name in both[0]},
    }
