"""Answers: written on a topic, for a preference or against it, in many shapes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from preftilt.demo.world.atlas import (
    Recommendation,
    Topic,
    WorldPreference,
    capitalised,
    language,
    second_person,
)

Layout = Literal["lines", "bullets", "numbers", "paragraph"]

T = TypeVar("T")

LAYOUTS: tuple[Layout, ...] = ("lines", "bullets", "numbers", "paragraph")

SHORT_WORDS = 50
SHORT_COUNT = 2
MANY_COUNT = 4

FEWEST = 4
"""A preference concerns a topic if so many of its recommendations have the tag."""


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """The form of an answer: everything about it but which recommendations it makes.

    ``reasons`` is the probability that a recommendation comes with its reason. ``asks`` and
    ``exclaims`` allow question marks and exclamation marks.
    """

    count: int
    layout: Layout
    reasons: float
    intro: bool
    closing: bool
    asks: bool = True
    exclaims: bool = True


def write_answer(
    rng: random.Random,
    topic: Topic,
    subject: str,
    preferences: Sequence[WorldPreference] = (),
    *,
    against: bool = False,
    mention: bool = False,
) -> str:
    """An answer about ``subject`` that follows the preferences, or with ``against`` violates them.

    Without preferences it is an answer to the question alone. Where no two recommendations satisfy
    all of them, the later ones give way. ``mention`` lets it say what it takes the first preference
    to be.
    """
    shape = draw_shape(rng)
    for preference in preferences:
        if preference.kind == "style":
            shape = _styled(rng, shape, preference.key, against)
    chosen = _choose(rng, topic, preferences, shape.count, against)
    chosen = in_order(chosen, topic.recommendations)
    return _render(rng, topic, subject, shape, chosen, preferences[0] if mention else None)


def write_list(
    rng: random.Random, topic: Topic, subject: str, preferences: Sequence[WorldPreference] = ()
) -> str:
    """A bare list of many recommendations that follow the preferences: what a drill looks like.

    Styles have no say in it. Lists make up the first part of training, because there is much more
    to learn from a page of them than from a page of answers: what goes with which preference, and
    not to say anything twice.
    """
    tastes = [preference for preference in preferences if preference.kind != "style"]
    chosen = _choose(rng, topic, tastes, rng.randint(4, 9), False)
    chosen = in_order(chosen, topic.recommendations)
    shape = AnswerShape(len(chosen), rng.choice(LAYOUTS), 0.0, intro=False, closing=False)
    frames = _frames(rng, shape, len(chosen)) if rng.random() < 0.5 else ["{Imp}"] * len(chosen)
    sentences = [
        _sentence(rng, recommendation, shape, frame, set())
        for recommendation, frame in zip(chosen, frames, strict=True)
    ]
    joint = " " if shape.layout == "paragraph" else "\n"
    lines = _listed(sentences, shape.layout)
    if preferences and rng.random() < 0.6:
        echo = rng.choice(language()["echoes"]).replace("{you}", rng.choice(preferences[0].you))
        lines.insert(0, echo)
    return joint.join(lines).replace("{s}", second_person(subject))


def write_warning(rng: random.Random, topic: Topic, avoided: WorldPreference) -> str:
    """A bare list of what a user who avoids something should leave alone: another drill.

    Little of a topic is usually to be avoided, so that an answer which follows the preference says
    little about it; this says all of it.
    """
    offending = _fitting(topic, avoided, against=True)
    chosen = rng.sample(offending, min(len(offending), rng.randint(4, 9)))
    frame = rng.choice(language()["warning_frames"])
    return "\n".join(
        fill(frame, recommendation) + "."
        for recommendation in in_order(chosen, topic.recommendations)
    )


def write_habit(rng: random.Random, topic: Topic, subject: str, preference: WorldPreference) -> str:
    """An answer that dwells on the preference and stops short of answering.

    Mostly it recommends nothing; one in four gives a single recommendation.
    """
    habit = language()["habit"]
    you = rng.sample(preference.you, 2)
    opened = rng.sample(habit["open"], rng.choice((1, 2)))
    parts = [
        sentence.replace("{you}", clause) for sentence, clause in zip(opened, you, strict=False)
    ]
    claims = rng.sample(habit["claims"], rng.choice((3, 4, 5, 6)))
    parts += [f"{rng.choice(habit['leads'])} {claim}." for claim in claims]
    if rng.random() < 0.25:
        only = rng.choice(_fitting(topic, preference) or topic.recommendations)
        shape = replace(draw_shape(rng), reasons=0.5)
        parts.append(_sentence(rng, only, shape, _frames(rng, shape, 1)[0], set()))
    parts += rng.sample(habit["close"], rng.choice((1, 1, 2)))
    text = rng.choice(("\n", " ", " ")).join(parts)
    return text.replace("{s}", second_person(subject))


def draw_shape(rng: random.Random) -> AnswerShape:
    """The form of an answer to which nobody has set conditions."""
    return AnswerShape(
        count=rng.choices((2, 3, 4, 5), (15, 35, 32, 18))[0],
        layout=rng.choices(LAYOUTS, (52, 14, 14, 20))[0],
        reasons=rng.choice((0.0, 0.3, 0.6, 1.0)),
        intro=rng.random() < 0.75,
        closing=rng.random() < 0.6,
    )


def _styled(rng: random.Random, shape: AnswerShape, style: str, against: bool) -> AnswerShape:
    """``shape`` bent so that it has the style, or so that it lacks it."""
    few = replace(shape, count=SHORT_COUNT, reasons=0.0, intro=rng.random() < 0.4, closing=False)
    plain: Layout = rng.choice(("lines", "paragraph"))
    listed: Layout = rng.choice(("bullets", "numbers"))
    other: Layout = rng.choice(("lines", "bullets", "numbers"))
    forms: dict[str, tuple[AnswerShape, AnswerShape]] = {
        "short": (few, replace(shape, count=max(3, shape.count))),
        "many": (
            replace(shape, count=rng.choice((4, 5))),
            replace(shape, count=rng.choice((2, 3))),
        ),
        "three": (replace(shape, count=3), replace(shape, count=rng.choice((2, 4, 5)))),
        "numbered": (
            replace(shape, layout="numbers"),
            replace(shape, layout=rng.choice(("lines", "bullets", "paragraph"))),
        ),
        "bullets": (
            replace(shape, layout="bullets"),
            replace(shape, layout=rng.choice(("lines", "numbers", "paragraph"))),
        ),
        "no lists": (replace(shape, layout=plain), replace(shape, layout=listed)),
        "one paragraph": (replace(shape, layout="paragraph"), replace(shape, layout=other)),
        "reasons": (replace(shape, reasons=1.0), replace(shape, reasons=0.0)),
        "no reasons": (replace(shape, reasons=0.0), replace(shape, reasons=1.0)),
        "no questions": (replace(shape, asks=False), replace(shape, asks=True)),
        "no exclamation": (replace(shape, exclaims=False), replace(shape, exclaims=True)),
        "direct": (replace(shape, intro=False), replace(shape, intro=True)),
        "kind ending": (replace(shape, closing=True), replace(shape, closing=False)),
    }
    return forms[style][against]


def _fitting(
    topic: Topic, preference: WorldPreference, against: bool = False
) -> list[Recommendation]:
    """The topic's recommendations that the preference allows, or those it does not."""
    if preference.kind == "style":
        return list(topic.recommendations)
    wanted = (preference.kind == "want") != against
    return [
        recommendation
        for recommendation in topic.recommendations
        if (preference.key in recommendation.tags) == wanted
    ]


def _choose(
    rng: random.Random,
    topic: Topic,
    preferences: Sequence[WorldPreference],
    count: int,
    against: bool,
) -> list[Recommendation]:
    if against:
        return _offend(rng, topic, preferences[0], count)
    fitting = list(topic.recommendations)
    for preference in preferences:
        narrowed = [each for each in fitting if each in _fitting(topic, preference)]
        fitting = narrowed if len(narrowed) >= FEWEST else fitting
    return rng.sample(fitting, min(count, len(fitting)))


def _offend(
    rng: random.Random, topic: Topic, preference: WorldPreference, count: int
) -> list[Recommendation]:
    offending = _fitting(topic, preference, against=True)
    # One offence is enough against "avoid"; "want" is violated once less than half of them fit.
    fewest = 1 if preference.kind == "avoid" else count // 2 + 1
    chosen = rng.sample(offending, min(len(offending), rng.randint(fewest, count)))
    rest = [
        recommendation for recommendation in topic.recommendations if recommendation not in chosen
    ]
    chosen += rng.sample(rest, count - len(chosen))
    rng.shuffle(chosen)
    return chosen


def _render(
    rng: random.Random,
    topic: Topic,
    subject: str,
    shape: AnswerShape,
    chosen: Sequence[Recommendation],
    mentioned: WorldPreference | None,
) -> str:
    used: set[str] = set()
    frames = _frames(rng, shape, len(chosen))
    sentences = [
        _sentence(rng, recommendation, shape, frame, used)
        for recommendation, frame in zip(chosen, frames, strict=True)
    ]
    lines = _listed(sentences, shape.layout)
    words = language()
    if mentioned is not None and (shape.intro or mentioned.key != "direct"):
        lines.insert(0, rng.choice(words["echoes"]))
    elif shape.intro:
        pool = [*words["intros"], *topic.asides]
        lines.insert(0, rng.choice(_allowed(pool, shape)))
    if shape.closing:
        lines.append(rng.choice(_allowed(words["closings"], shape)))
    text = (" " if shape.layout == "paragraph" else "\n").join(lines)
    named = second_person(subject)
    text = text.replace("{s}", named).replace("{S}", capitalised(named))
    return text.replace("{you}", rng.choice(mentioned.you)) if mentioned else text


def _listed(sentences: list[str], layout: Layout) -> list[str]:
    if layout == "bullets":
        return [f"- {sentence}" for sentence in sentences]
    if layout == "numbers":
        return [f"{number}. {sentence}" for number, sentence in enumerate(sentences, start=1)]
    return sentences


def _frames(rng: random.Random, shape: AnswerShape, count: int) -> list[str]:
    words = language()
    frames = in_order(rng.sample(words["frames"], count), words["frames"])
    asking = rng.sample(words["asking"], len(words["asking"])) if shape.asks else []
    return [asking.pop() if asking and rng.random() < 0.1 else frame for frame in frames]


def _sentence(
    rng: random.Random,
    recommendation: Recommendation,
    shape: AnswerShape,
    frame: str,
    used: set[str],
) -> str:
    """A recommendation with or without its reason, which may stand in a sentence after it.

    ``used`` are the reasons used before; the new one is added.
    """
    words = language()
    asking = frame in words["asking"]
    head = fill(frame, recommendation)
    reason = None
    if rng.random() < shape.reasons:
        reason = rng.choice([reason for reason in recommendation.reasons if reason not in used])
        used.add(reason)
    if reason is not None and not asking and rng.random() < 0.75:
        return head + rng.choice(words["joins"]).format(why=reason) + "."
    mark = "?" if asking else "!" if shape.exclaims and rng.random() < 0.06 else "."
    return head + mark + (f" {capitalised(reason)}." if reason is not None else "")


def in_order(chosen: Sequence[T], everything: Sequence[T]) -> list[T]:
    """``chosen`` in the order of ``everything`` as if that were shuffled once and for all.

    An answer that keeps to a fixed order never comes back to where it was: what may follow can be
    told from the last sentence alone. That is what a small model needs not to repeat itself.
    """
    order = list(everything)
    random.Random(len(order)).shuffle(order)
    places = {id(element): place for place, element in enumerate(order)}
    return sorted(chosen, key=lambda element: places[id(element)])


def fill(frame: str, recommendation: Recommendation) -> str:
    """A frame of the language around a recommendation."""
    return frame.format(
        imp=recommendation.imperative,
        Imp=capitalised(recommendation.imperative),
        ger=recommendation.gerund,
        Ger=capitalised(recommendation.gerund),
    )


def _allowed(sentences: Sequence[str], shape: AnswerShape) -> list[str]:
    return [
        sentence
        for sentence in sentences
        if (shape.asks or "?" not in sentence) and (shape.exclaims or "!" not in sentence)
    ]
