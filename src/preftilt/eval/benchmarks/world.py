"""The demo world: exact verdicts, no judge, nothing to fetch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path

import preftilt.demo.world
from preftilt.demo.world import WorldItem, check, items, questions, topic
from preftilt.demo.world.writing import write_answer
from preftilt.errors import BadInput
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Opening,
    QualityPart,
    Values,
    one_of,
    rear_protocol,
)
from preftilt.messages import Message
from preftilt.types import Preference

LONGEST = 160
"""Tokens of an answer: the world's are a few sentences long."""

PRESETS = ("rear-paper", "rear-official")

FILLER = 60
"""Exchanges about other topics that are kept to insert."""


def open_world(opening: Opening) -> Benchmark:
    """λ is chosen on the world's own validation split; all of the preset's other settings are REAR's."""
    if opening.switches:
        raise BadInput(f"the demo world has no switch {next(iter(opening.switches))!r}")
    base = rear_protocol(one_of("preset", opening.preset, PRESETS), max_tokens=LONGEST)
    return Benchmark(
        name="demo-world",
        title="Demo world",
        metrics=("following", "helpful", "violates"),
        fault="violates",
        parts=(
            QualityPart("helpful", "helpful (%)"),
            QualityPart("violates", "preference kept (%)", inverted=True),
        ),
        protocol=BenchmarkProtocol(
            settings=base.settings, search=base.search, searches=base.searches
        ),
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
    return {
        "following": float(verdict.helpful and not verdict.violates),
        "helpful": float(verdict.helpful),
        "violates": float(verdict.violates),
    }
