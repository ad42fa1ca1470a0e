"""The exact checker: is an answer helpful, and does it violate the preference?

An answer is taken apart into sentences, and each must be one of this world's: a recommendation in
one of its frames, with a reason of its own or none; the reason by itself; or one of the sentences
that recommend nothing (introductions, closings, words about a preference). Nothing is estimated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from preftilt.demo.world.atlas import (
    Recommendation,
    Topic,
    WorldPreference,
    capitalised,
    language,
    preference,
    preferences,
    second_person,
    topic,
    topics,
)
from preftilt.demo.world.splits import WorldItem
from preftilt.demo.world.writing import MANY_COUNT, SHORT_COUNT, SHORT_WORDS

Cause = Literal[
    "unparseable", "off topic", "acknowledgement only", "fewer than two items", "repeats"
]
"""Why an answer is not helpful; the first that applies, in this order."""

_MARKER = re.compile(r"\A(?:- |[0-9]{1,2}\. )")
_ENDS = re.compile(r"(?<=[.!?])\s+")
_FIRST_WORD = re.compile(r"\b[a-z]+", re.IGNORECASE)
_SLOTS = re.compile(r"(\{s\}|\{S\}|\{you\})")


@dataclass(frozen=True, slots=True)
class WorldVerdict:
    """``following`` is helpful and not violating; ``cause`` says why an answer is not helpful.

    ``recommended`` are the ids of the recommendations found, in order. An answer that is not
    helpful can violate the preference as well.
    """

    helpful: bool
    violates: bool
    following: bool
    cause: Cause | None
    recommended: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sentence:
    """What one sentence is; ``recommendation`` is the one that it names, well-formed or not."""

    kind: Literal["recommendation", "reason", "talk", "unknown"]
    text: str
    recommendation: Recommendation | None = None
    reasoned: bool = False
    marker: str = ""


def check(item: WorldItem, answer: str) -> WorldVerdict:
    """The verdict on an answer to an item's question under its preference."""
    return judge(topic(item.topic), item.subject, preference(item.preference_id), answer)


def judge(topic: Topic, subject: str, preference: WorldPreference, answer: str) -> WorldVerdict:
    """The verdict on an answer to a question about ``subject`` under ``preference``.

    Helpful: every sentence parses, at least two recommendations are made, all of them on the topic
    and none twice. Violating: for ``avoid``, something with the tag is named, even in a sentence
    that does not parse; for ``want``, less than half of what is named has the tag; for ``style``,
    the form is not the one asked for.
    """
    sentences = _parse(topic, subject, answer)
    cause = _cause(topic, sentences)
    violates = _violates(preference, answer, sentences)
    return WorldVerdict(
        helpful=cause is None,
        violates=violates,
        following=cause is None and not violates,
        cause=cause,
        recommended=tuple(recommendation.id for recommendation in _found(sentences)),
    )


def _cause(topic: Topic, sentences: Sequence[_Sentence]) -> Cause | None:
    made = [
        sentence.recommendation
        for sentence in sentences
        if sentence.kind == "recommendation" and sentence.recommendation
    ]
    if any(sentence.kind == "unknown" for sentence in sentences):
        return "unparseable"
    if any(recommendation.topic != topic.name for recommendation in made):
        return "off topic"
    if sentences and not made:
        return "acknowledgement only"
    distinct = {recommendation.id for recommendation in made}
    if len(distinct) < 2:
        return "fewer than two items"
    texts = [sentence.text for sentence in sentences]
    if len(set(texts)) < len(texts) or len(distinct) < len(made):
        return "repeats"
    return None


def _violates(preference: WorldPreference, answer: str, sentences: Sequence[_Sentence]) -> bool:
    named = _found(sentences)
    if not named:
        return False
    if preference.kind == "style":
        return not has_style(preference.key, _form(answer, sentences))
    tagged = sum(preference.key in recommendation.tags for recommendation in named)
    return tagged > 0 if preference.kind == "avoid" else 2 * tagged < len(named)


def _found(sentences: Sequence[_Sentence]) -> list[Recommendation]:
    return [
        sentence.recommendation for sentence in sentences if sentence.recommendation is not None
    ]


def _form(answer: str, sentences: Sequence[_Sentence]) -> AnswerForm:
    named = [index for index, sentence in enumerate(sentences) if sentence.recommendation]
    return AnswerForm(
        text=answer.strip(),
        markers=tuple(sentences[index].marker for index in named),
        reasons=tuple(
            sentences[index].reasoned
            or (index + 1 < len(sentences) and sentences[index + 1].kind == "reason")
            for index in named
        ),
        starts_at_once=sentences[0].recommendation is not None,
        ends_in_talk=sentences[-1].kind == "talk",
    )


def _parse(topic: Topic, subject: str, answer: str) -> list[_Sentence]:
    parsed: list[_Sentence] = []
    for line in answer.strip().splitlines():
        match = _MARKER.match(line)
        marker = match.group() if match else ""
        for text in _ENDS.split(line[len(marker) :].strip()):
            if text:
                before = parsed[-1].recommendation if parsed else None
                parsed.append(_read(topic, subject, text, marker, before))
                marker = ""
    return parsed


def _read(
    topic: Topic, subject: str, text: str, marker: str, before: Recommendation | None
) -> _Sentence:
    if before and text.endswith(".") and text[:-1] in map(capitalised, before.reasons):
        return _Sentence("reason", text)
    if named := next(mentions(text), None):
        recommendation, start, end = named
        shape = _well_formed(text[:start], text[start:end], text[end:], recommendation)
        if shape is None:
            return _Sentence("unknown", text, recommendation, marker=marker)
        return _Sentence("recommendation", text, recommendation, shape == "reasoned", marker)
    return _Sentence("talk" if _is_talk(topic, subject, text) else "unknown", text)


def mentions(text: str) -> Iterator[tuple[Recommendation, int, int]]:
    """The recommendations named in ``text``, each with the place where its words begin and end.

    Of those that start at one place the longest counts; none starts within another.
    """
    lowered, end = text.lower(), 0
    for word in _FIRST_WORD.finditer(lowered):
        if word.start() < end:
            continue
        for phrase, recommendation in _phrases().get(word.group(), ()):
            if lowered.startswith(phrase, word.start()):
                end = word.start() + len(phrase)
                yield recommendation, word.start(), end
                break


def _well_formed(
    head: str, phrase: str, tail: str, recommendation: Recommendation
) -> Literal["plain", "reasoned"] | None:
    slots = [slot for slot, form in _forms(recommendation).items() if form == phrase]
    for slot in slots:
        for frame, asking in _frames():
            before, _, after = frame.partition(slot)
            if before == frame or before != head or not tail.startswith(after):
                continue
            rest = tail[len(after) :]
            if rest == "?" if asking else rest in (".", "!"):
                return "plain"
            if not asking and rest in _reasoned(recommendation):
                return "reasoned"
    return None


def _reasoned(recommendation: Recommendation) -> set[str]:
    return {
        join.format(why=reason) + "."
        for join in language()["joins"]
        for reason in recommendation.reasons
    }


def _forms(recommendation: Recommendation) -> dict[str, str]:
    return {
        "{imp}": recommendation.imperative,
        "{Imp}": capitalised(recommendation.imperative),
        "{ger}": recommendation.gerund,
        "{Ger}": capitalised(recommendation.gerund),
    }


@cache
def _phrases() -> dict[str, tuple[tuple[str, Recommendation], ...]]:
    """Phrases in lower case by their first word, long ones first."""
    by_word: dict[str, list[tuple[str, Recommendation]]] = {}
    for each in topics():
        for recommendation in each.recommendations:
            for phrase in (recommendation.imperative.lower(), recommendation.gerund.lower()):
                by_word.setdefault(phrase.split()[0], []).append((phrase, recommendation))
    return {
        word: tuple(sorted(phrases, key=lambda pair: -len(pair[0])))
        for word, phrases in by_word.items()
    }


@cache
def _frames() -> tuple[tuple[str, bool], ...]:
    words = language()
    return (
        *((frame, False) for frame in words["frames"]),
        *((frame, True) for frame in words["asking"]),
    )


def _is_talk(topic: Topic, subject: str, text: str) -> bool:
    fixed, patterns = _talk(topic)
    if text in fixed:
        return True
    named = second_person(subject)
    for pattern in patterns:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        slots = match.groupdict()
        if (
            slots.get("s", named) == named
            and slots.get("S", capitalised(named)) == capitalised(named)
            and ("you" not in slots or slots["you"] in _spoken())
        ):
            return True
    return False


@cache
def _talk(topic: Topic) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    """The sentences that recommend nothing: those without slots, and patterns for the others."""
    words = language()
    habit = words["habit"]
    claims = [f"{lead} {claim}." for lead in habit["leads"] for claim in habit["claims"]]
    pools = (words["intros"], words["closings"], words["echoes"], topic.asides)
    pools = (*pools, habit["open"], claims, habit["close"])
    sentences = [sentence for pool in pools for sentence in pool]
    slotted = [sentence for sentence in sentences if _SLOTS.search(sentence)]
    return frozenset(sentences) - frozenset(slotted), tuple(map(_pattern, slotted))


def _pattern(sentence: str) -> re.Pattern[str]:
    parts = _SLOTS.split(sentence)
    return re.compile(
        "".join(f"(?P<{p[1:-1]}>.+)" if _SLOTS.fullmatch(p) else re.escape(p) for p in parts)
    )


@cache
def _spoken() -> frozenset[str]:
    return frozenset(clause for preference in preferences() for clause in preference.you)


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The form of an answer, one entry for each thing it recommends.

    ``markers`` are the list markers ("- ", "1. " or empty), ``reasons`` whether a reason is given.
    """

    text: str
    markers: tuple[str, ...]
    reasons: tuple[bool, ...]
    starts_at_once: bool
    ends_in_talk: bool


def has_style(style: str, form: AnswerForm) -> bool:
    """Whether an answer of this form has the style; ``KeyError`` if there is no such style."""
    count = len(form.markers)
    numbered = [marker[:1].isdigit() for marker in form.markers]
    dashed = [marker.startswith("-") for marker in form.markers]
    tests = {
        "short": count <= SHORT_COUNT and len(form.text.split()) <= SHORT_WORDS,
        "many": count >= MANY_COUNT,
        "three": count == 3,
        "numbered": all(numbered),
        "bullets": all(dashed),
        "no lists": not any(form.markers),
        "one paragraph": "\n" not in form.text,
        "reasons": all(form.reasons),
        "no reasons": not any(form.reasons),
        "no questions": "?" not in form.text,
        "no exclamation": "!" not in form.text,
        "direct": form.starts_at_once,
        "kind ending": form.ends_in_talk,
    }
    return tests[style]
