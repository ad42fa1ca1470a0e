"""Users of the demo world: each has one taste, a past in which it was met, and questions to come, all checked exactly.

A user's past comes from the questions, wordings and subjects of training; the questions to come from those of the test
split, some with a topic in which training never showed that taste (``held-out``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from preftilt.demo.world import (
    Question,
    Split,
    WorldPreference,
    judge,
    preferences,
    questions,
    topic,
    wordings,
)
from preftilt.demo.world import WorldPreference as Taste
from preftilt.demo.world.checking import mentions
from preftilt.demo.world.splits import combination, concerns, pair_split
from preftilt.demo.world.writing import write_answer
from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import Comparison, Example
from preftilt.messages import Message
from preftilt.rivals.reward_models import Pair
from preftilt.types import Preference


def exact(pairs: Sequence[Pair]) -> list[float]:
    """One more for every recommendation that the stated taste allows, one less for every other; 0 for styles."""
    return [_reward(messages[0].content, response) for messages, response in pairs]


def _reward(stated: str, response: str) -> float:
    taste = _tastes().get(stated.strip())
    if taste is None or taste.kind == "style":
        return 0.0
    wanted = taste.kind == "want"
    named = [recommendation for recommendation, _, _ in mentions(response)]
    return float(
        sum(1 if (taste.key in recommendation.tags) == wanted else -1 for recommendation in named)
    )


@cache
def _tastes() -> dict[str, WorldPreference]:
    return {text: preference for preference in preferences() for text in preference.texts}


QUESTIONS = 4
"""Questions to come, a user."""
PAST = 6
"""Questions of the past, a user."""
DRAWS = 200
"""Answers written before it is given up to find one that the checker takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldQuestion:
    """A question to come: the answer that the user's taste asks for, and one that violates it; both are helpful."""

    question: Question
    preference: str
    completion: str
    violating: str
    combination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldUser:
    """Somebody with a taste."""

    id: str
    taste: Taste
    past: tuple[Example, ...]
    to_come: tuple[WorldQuestion, ...]


@cache
def world_users() -> tuple[WorldUser, ...]:
    """A user for every taste of the world that there are questions enough for, always the same ones."""
    users = (_user(taste) for taste in preferences())
    return tuple(user for user in users if user is not None)


@cache
def world_comparisons() -> tuple[Comparison, ...]:
    """Every question to come as a pair, the completion and the violating answer; everybody's first question first."""
    return tuple(_pair(user, number) for number in range(QUESTIONS) for user in world_users())


def world_verdict(id: str, text: str) -> dict[str, float]:
    """What the checker says of an answer to the comparison ``id``: whether it follows the taste, and is helpful."""
    user_id, _, number = id.rpartition("/")
    [user] = [user for user in world_users() if user.id == user_id]
    question = user.to_come[int(number)].question
    verdict = judge(topic(question.topic), question.subject, user.taste, text)
    return {"following": float(verdict.following), "helpful": float(verdict.helpful)}


def _pair(user: WorldUser, number: int) -> Comparison:
    to_come = user.to_come[number]
    return Comparison(
        id=f"{user.id}/{number}",
        user=user.id,
        group=to_come.combination,
        messages=(Message("user", to_come.question.text),),
        preferences=(Preference(to_come.preference),),
        chosen=to_come.completion,
        rejected=(to_come.violating,),
        examples=user.past,
        place=f"{user.id}, question {number}",
    )


def _user(taste: Taste) -> WorldUser | None:
    rng = random.Random(f"user {taste.id} 0")
    before, after = _asked(rng, taste, "train", PAST), _asked(rng, taste, "test", QUESTIONS)
    if len(before) < PAST or len(after) < QUESTIONS:
        return None
    return WorldUser(
        id=taste.id,
        taste=taste,
        past=tuple(
            Example(question.text, _written(rng, taste, question, against=False))
            for question in before
        ),
        to_come=tuple(_to_come(rng, taste, question) for question in after),
    )


def _asked(rng: random.Random, taste: Taste, split: Split, count: int) -> list[Question]:
    """Questions of a split that the taste makes a difference to, each about something else."""
    subjects: dict[tuple[str, str], list[Question]] = {}
    for question in questions(split):
        if (
            concerns(taste, topic(question.topic))
            and pair_split(question.topic, question.subject, taste.id) == split
        ):
            subjects.setdefault((question.topic, question.subject), []).append(question)
    chosen = rng.sample(sorted(subjects), min(count, len(subjects)))
    return [rng.choice(subjects[subject]) for subject in chosen]


def _to_come(rng: random.Random, taste: Taste, question: Question) -> WorldQuestion:
    """Both answers are drawn from one state of ``rng``, so that a taste for things leaves them the same form."""
    wording = rng.choice(wordings(taste, "test"))
    beside = random.Random()
    beside.setstate(rng.getstate())
    return WorldQuestion(
        question=question,
        preference=wording,
        completion=_written(rng, taste, question, against=False),
        violating=_written(beside, taste, question, against=True),
        combination=combination(question.topic, taste.id),
    )


def _written(rng: random.Random, taste: Taste, question: Question, *, against: bool) -> str:
    """A helpful answer that follows the taste, or violates it, by the checker."""
    about = topic(question.topic)
    for _ in range(DRAWS):
        text = write_answer(rng, about, question.subject, [taste], against=against)
        verdict = judge(about, question.subject, taste, text)
        if verdict.helpful and verdict.violates == against:
            return text
    raise BadInput(f"the world has no such answer to {question.text!r} for {taste.id}")
