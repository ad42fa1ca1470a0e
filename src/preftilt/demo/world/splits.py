"""Which questions, wordings and question–preference pairs belong to train, validation and test.

Everything is divided by a hash of its own text, never by its place in a table. A question template,
a wording of a preference, and a pair of a subject ("maths") and a preference belong to exactly one
split each. Some pairs of a topic and a preference are kept out of training altogether: an item with
such a pair is marked ``held-out``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Literal

from preftilt.demo.world.atlas import Topic, WorldPreference, preferences, topics
from preftilt.demo.world.writing import FEWEST

Split = Literal["train", "validation", "test"]
Combination = Literal["seen", "held-out"]

_FRACTIONS: dict[Split, float] = {"train": 0.6, "validation": 0.15, "test": 0.25}
_SIZES: dict[Split, int] = {"train": 480, "validation": 240, "test": 480}
_HELD_OUT = 0.12
_PARTS = {"avoid": 0.4, "want": 0.3, "style": 0.3}
_SHOWN = ("studying", "avoid: game")
"""The paper's example, which the documentation shows: always a part of training."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a user asks it."""

    text: str
    topic: str
    subject: str
    template: str


@dataclass(frozen=True, slots=True)
class WorldItem:
    """A question to be answered under a preference.

    ``combination`` says whether the model met this preference with this topic in training.
    """

    id: str
    question: str
    preference: str
    topic: str
    subject: str
    preference_id: str
    kind: str
    combination: Combination


def concerns(preference: WorldPreference, topic: Topic) -> bool:
    """Whether the preference makes a difference to answers in this topic."""
    if preference.kind == "style":
        return True
    return (
        sum(preference.key in recommendation.tags for recommendation in topic.recommendations)
        >= FEWEST
    )


@cache
def questions(split: Split) -> tuple[Question, ...]:
    """All questions of a split: its templates with every subject of their topic."""
    return tuple(
        Question(template.format(s=subject, S=subject), topic.name, subject, template)
        for topic in topics()
        for template in _templates(topic, split)
        for subject in topic.subjects
    )


@cache
def wordings(preference: WorldPreference, split: Split) -> tuple[str, ...]:
    """The wordings of a preference that belong to a split."""
    return _part(preference.texts, split)


def combination(topic: str, preference_id: str) -> Combination:
    """Whether training shows this preference in this topic."""
    if (topic, preference_id) == _SHOWN:
        return "seen"
    return "held-out" if _share("combination", topic, preference_id) < _HELD_OUT else "seen"


def pair_split(topic: str, subject: str, preference_id: str) -> Split:
    """The split that a subject and a preference belong to together."""
    share = _share("pair", topic, subject, preference_id)
    if combination(topic, preference_id) == "held-out":
        return "test" if share < 0.7 else "validation"
    if (topic, preference_id) == _SHOWN and subject == "maths":
        return "train"
    return _split_at(share)


@cache
def items(split: Split, seed: int = 0) -> tuple[WorldItem, ...]:
    """The items of a split: 480 of train and test, 240 of validation.

    40 % are things to avoid, 30 % things wanted, 30 % matters of style; within each, the preferences
    take turns. The same seed gives the same items.
    """
    rng = random.Random(f"items {split} {seed}")
    drawn: list[WorldItem] = []
    for kind, fraction in _PARTS.items():
        pairs = _turns([pair for pair in _pairs(split) if pair[1].kind == kind], rng)
        drawn += [_item(rng, split, *pair) for pair in pairs[: round(fraction * _SIZES[split])]]
    rng.shuffle(drawn)
    return tuple(
        WorldItem(f"{split}-{number:04d}", *_fields(item))
        for number, item in enumerate(drawn, start=1)
    )


def _pairs(split: Split) -> list[tuple[Topic, WorldPreference, str]]:
    return [
        (topic, preference, subject)
        for topic in topics()
        for preference in preferences()
        if concerns(preference, topic)
        for subject in topic.subjects
        if pair_split(topic.name, subject, preference.id) == split
    ]


def _turns(
    pairs: list[tuple[Topic, WorldPreference, str]], rng: random.Random
) -> list[tuple[Topic, WorldPreference, str]]:
    """The pairs shuffled, then ordered so that every preference comes once before any comes twice."""
    rng.shuffle(pairs)
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int]] = []
    for index, (_, preference, _) in enumerate(pairs):
        turn = seen.get(preference.id, 0)
        seen[preference.id] = turn + 1
        ranked.append((turn, index))
    return [pairs[index] for _, index in sorted(ranked)]


def _item(
    rng: random.Random, split: Split, topic: Topic, preference: WorldPreference, subject: str
) -> WorldItem:
    template = rng.choice(_templates(topic, split))
    return WorldItem(
        id="",
        question=template.format(s=subject, S=subject),
        preference=rng.choice(wordings(preference, split)),
        topic=topic.name,
        subject=subject,
        preference_id=preference.id,
        kind=preference.kind,
        combination=combination(topic.name, preference.id),
    )


def _fields(item: WorldItem) -> Iterable:
    return tuple(getattr(item, name) for name in WorldItem.__slots__ if name != "id")


def _templates(topic: Topic, split: Split) -> tuple[str, ...]:
    # Topics share some templates, so the split of one depends on nothing but its text. The number
    # is one for which every topic has templates in each split.
    return tuple(
        template
        for template in topic.questions
        if _split_at(_share("template 364", template)) == split
    )


def _split_at(share: float) -> Split:
    if share < _FRACTIONS["train"]:
        return "train"
    return "validation" if share < _FRACTIONS["train"] + _FRACTIONS["validation"] else "test"


def _part(texts: Sequence[str], split: Split) -> tuple[str, ...]:
    ranked = sorted(texts, key=lambda text: _share("text", text))
    validation = max(1, round(_FRACTIONS["validation"] * len(ranked)))
    test = max(1, round(_FRACTIONS["test"] * len(ranked)))
    parts: dict[Split, list[str]] = {
        "test": ranked[:test],
        "validation": ranked[test : test + validation],
        "train": ranked[test + validation :],
    }
    return tuple(parts[split])


def _share(*key: str) -> float:
    digest = sha256("\x1f".join(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
