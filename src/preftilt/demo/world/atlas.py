"""What exists in the world: topics, their recommendations, and preferences, read from the tables."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["avoid", "want", "style"]
"""What a preference asks of an answer: no recommendation with its tag, at least half of them with
its tag, or a form."""

_DOUBLED = "begin dip get hum jot knit let map pencil plan put run set sit stir swim whip win wrap"
"""Verbs that double their last letter before -ing."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One thing an answer can recommend.

    ``imperative`` ("teach a classmate …") and ``gerund`` ("teaching a classmate …") are the two
    forms it takes in a sentence; ``reasons`` are the clauses that may go with it.
    """

    id: str
    topic: str
    imperative: str
    gerund: str
    reasons: tuple[str, ...]
    tags: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Topic:
    """A field of questions; ``questions`` are templates with ``{s}`` for the subject."""

    name: str
    subjects: tuple[str, ...]
    questions: tuple[str, ...]
    asides: tuple[str, ...]
    recommendations: tuple[Recommendation, ...]


@dataclass(frozen=True, slots=True, eq=False)
class WorldPreference:
    """A wish a user may have.

    ``key`` is a tag for ``avoid`` and ``want``, the name of a form for ``style``. ``texts`` are its
    wordings in the first person, ``you`` the clauses an answer speaks of it with.
    """

    id: str
    kind: Kind
    key: str
    texts: tuple[str, ...]
    you: tuple[str, ...]


@cache
def topics() -> tuple[Topic, ...]:
    """All topics, by name."""
    folder = files("preftilt.demo.world") / "topics"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(_topic(tomllib.loads((folder / name).read_text("utf-8"))) for name in names)


@cache
def preferences() -> tuple[WorldPreference, ...]:
    """All preferences: tastes, constraints, styles."""
    table = read_table("preferences.toml")
    tastes = [
        _taste(kind, tag, nouns, table["frames"])
        for kind in ("avoid", "want")
        for tag, nouns in table[kind].items()
    ]
    limits = [
        WorldPreference(row["name"], "avoid", row["tag"], tuple(row["texts"]), tuple(row["you"]))
        for row in table["constraints"]
    ]
    forms = [
        WorldPreference(
            f"style: {row['name']}", "style", row["name"], tuple(row["texts"]), tuple(row["you"])
        )
        for row in table["styles"]
    ]
    return (*tastes, *limits, *forms)


def topic(name: str) -> Topic:
    """The topic of that name; ``KeyError`` if there is none."""
    return _by_name()[name]


def preference(id: str) -> WorldPreference:
    """The preference of that id; ``KeyError`` if there is none."""
    return _by_id()[id]


def second_person(subject: str) -> str:
    """A subject as an answer names it: "my sister" becomes "your sister"."""
    for mine in ("my ", "our "):
        if subject.startswith(mine):
            subject = "your " + subject.removeprefix(mine)
    return subject.replace(" my ", " your ")


def capitalised(text: str) -> str:
    """``text`` with its first letter in upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


@cache
def language() -> dict[str, Any]:
    """The sentences answers and conversations are made of."""
    return read_table("language.toml")


def read_table(name: str) -> dict[str, Any]:
    """A table of the world's data."""
    return tomllib.loads((files("preftilt.demo.world") / name).read_text("utf-8"))


@cache
def _by_name() -> dict[str, Topic]:
    return {topic.name: topic for topic in topics()}


@cache
def _by_id() -> dict[str, WorldPreference]:
    return {preference.id: preference for preference in preferences()}


def _topic(table: dict[str, Any]) -> Topic:
    recommendations = [
        Recommendation(
            id=f"{table['name']}/{number}{letter}",
            topic=table["name"],
            imperative=phrase,
            gerund=_gerund(phrase),
            reasons=(row[3], row[4]),
            tags=frozenset(row[0].split()),
        )
        for number, row in enumerate(table["rows"], start=1)
        for letter, phrase in zip("ab", row[1:3], strict=True)
    ]
    return Topic(
        name=table["name"],
        subjects=tuple(table["subjects"]),
        questions=tuple(table["questions"]),
        asides=tuple(table["asides"]),
        recommendations=tuple(recommendations),
    )


def _taste(kind: Kind, tag: str, nouns: list[str], frames: dict[str, list[str]]) -> WorldPreference:
    # Noun phrases are written from the user's side; "my phone" is "your phone" in an answer.
    heard = [f" {noun}".replace(" my ", " your ").replace(" myself", " yourself") for noun in nouns]
    return WorldPreference(
        id=f"{kind}: {tag}",
        kind=kind,
        key=tag,
        texts=tuple(frame.format(n=noun) for noun in nouns for frame in frames[kind]),
        you=tuple(
            frame.format(n=noun.strip()) for noun in heard for frame in frames[f"{kind}_you"]
        ),
    )


def _gerund(phrase: str) -> str:
    verb, _, rest = phrase.partition(" ")
    if verb in _DOUBLED.split():
        stem = verb + verb[-1]
    elif verb.endswith("e"):
        stem = verb[:-1]
    else:
        stem = verb
    return f"{stem}ing {rest}"
