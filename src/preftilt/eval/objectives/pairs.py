"""Preference pairs of the demo world with verdicts of several objectives, as files that ``preftilt train`` reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from preftilt.demo.world import Split, WorldItem, items
from preftilt.engines.open import open_engine
from preftilt.errors import BadInput, PreftiltError
from preftilt.eval.objectives.answers import conversation, drawn_answers, written_answers
from preftilt.eval.objectives.rewards import rewards
from preftilt.records import json_line
from preftilt.types import Sampling

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
    if settings.source == WRITER:
        answers = {
            split: written_answers(some, settings.answers, settings.seed)
            for split, some in chosen.items()
        }
    else:
        answers = asyncio.run(_drawn(settings, chosen))
    return {split: _rows(some, answers[split]) for split, some in chosen.items()}


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
