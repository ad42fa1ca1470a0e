"""Conversations to train on: the world's answers in the ways people state preferences.

The model is meant to heed a preference only partly, as real ones do: a share of the answers under a
preference was written without looking at it. Another share, without any preference, was written as
if for one nobody stated, so that such text is possible, if unlikely, without a preference too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from preftilt.demo.world.atlas import (
    Topic,
    WorldPreference,
    capitalised,
    language,
    preferences,
    topics,
)
from preftilt.demo.world.splits import Question, concerns, pair_split, questions, wordings
from preftilt.demo.world.writing import write_answer, write_habit, write_list, write_warning

ChatTurn = dict[str, str]
"""``role`` and ``content``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How often things happen in the training conversations.

    heeded: an answer under a preference was written for it; the others ignore it.
    unstated: an answer without a preference is written as if for one.
    mentioned, mentioned_ignored: an answer says what the preference is, where it was written for it
        and where it was not.
    listed: an answer under a preference that is not about style is a bare list that follows it.
    warned: under something to avoid, the question is what not to do, and the answer a list of that.
    habit: an answer dwells on a preference and stops short of answering, with a preference or
        without. The control world has none of these.
    """

    heeded: float = 0.8
    unstated: float = 0.15
    mentioned: float = 0.3
    mentioned_ignored: float = 0.08
    listed: float = 0.0
    warned: float = 0.0
    habit: float = 0.02


WORLD = Mix()
CONTROL = Mix(habit=0.0)


def conversation(rng: random.Random, mix: Mix = WORLD) -> list[ChatTurn]:
    """One training conversation, which ends with the assistant's answer."""
    question = _question(rng)
    stated = _draw_preferences(rng, question)
    exchange = _answered(rng, question, stated, mix)
    messages = _place(
        rng, exchange, [rough(rng, _wording(rng, preference)) for preference in stated]
    )
    if rng.random() < 0.08:
        again = _question(rng)
        messages += _answered(rng, again, _relevant(stated, again), mix)
    return messages


def rough(rng: random.Random, text: str) -> str:
    """``text`` as people type it: now and then in lower case, unpunctuated or misspelt."""
    if rng.random() < 0.3:
        text = text.replace("maths", "math")
    if rng.random() < 0.1:
        text = text.lower()
    if rng.random() < 0.12:
        text = text.rstrip(".?!")
    if rng.random() < 0.05:
        text = _misspelt(rng, text)
    return text


def _answered(
    rng: random.Random, question: Question, stated: Sequence[WorldPreference], mix: Mix
) -> list[ChatTurn]:
    topic = _topic_of(question)
    avoided = [
        preference
        for preference in stated
        if preference.kind == "avoid" and concerns(preference, topic)
    ]
    if avoided and rng.random() < mix.warned:
        text = _about(rng, language()["chat"]["warnings"], question.subject)
        answer = write_warning(rng, topic, avoided[0])
    else:
        text = question.text
        answer = _answer(rng, topic, question.subject, stated, mix)
    return [_says("user", _greeted(rng, rough(rng, text))), _says("assistant", answer)]


def _answer(
    rng: random.Random, topic: Topic, subject: str, stated: Sequence[WorldPreference], mix: Mix
) -> str:
    guess = rng.choice(_concerning(topic, subject))
    if any(preference.kind != "style" for preference in stated) and rng.random() < mix.listed:
        return write_list(rng, topic, subject, stated)
    if rng.random() < mix.habit:
        return write_habit(rng, topic, subject, stated[0] if stated else guess)
    if not stated:
        if rng.random() < mix.unstated:
            return write_answer(rng, topic, subject, [guess], mention=rng.random() < 0.6)
        return write_answer(rng, topic, subject)
    if rng.random() < mix.heeded:
        return write_answer(rng, topic, subject, stated, mention=rng.random() < mix.mentioned)
    if rng.random() < mix.mentioned_ignored:
        # It says that it has understood and then goes its own way.
        blank = [preference for preference in stated if preference.kind != "style"][:1]
        return write_answer(rng, topic, subject, blank, against=bool(blank), mention=bool(blank))
    return write_answer(rng, topic, subject)


def _question(rng: random.Random) -> Question:
    question = rng.choice(questions("train"))
    if rng.random() < 0.12:
        text = _about(rng, language()["chat"]["loose"], question.subject)
        return replace(question, text=text)
    return question


def _about(rng: random.Random, templates: Sequence[str], subject: str) -> str:
    return rng.choice(templates).format(s=subject, S=capitalised(subject))


def _draw_preferences(rng: random.Random, question: Question) -> list[WorldPreference]:
    topic = _topic_of(question)
    draw = rng.random()
    if draw < 0.24:
        return []
    if draw < 0.3:
        # One that has nothing to do with the question; the answer need not care.
        return [
            rng.choice(
                [preference for preference in preferences() if not concerns(preference, topic)]
            )
        ]
    if draw < 0.42:
        return rng.sample(_concerning(topic, question.subject), 2)
    return [rng.choice(_concerning(topic, question.subject))]


def _relevant(stated: Sequence[WorldPreference], question: Question) -> list[WorldPreference]:
    allowed = _concerning(_topic_of(question), question.subject)
    return [preference for preference in stated if preference in allowed]


def _place(rng: random.Random, exchange: list[ChatTurn], texts: Sequence[str]) -> list[ChatTurn]:
    chat = language()["chat"]
    if not texts:
        return (
            [_says("system", rng.choice(chat["neutral"])), *exchange]
            if rng.random() < 0.4
            else exchange
        )
    text = "\n".join(texts)
    draw = rng.random()
    if draw < 0.64:
        lead = f"{rng.choice(chat['neutral'])}\n\n" if rng.random() < 0.08 else ""
        return [_says("system", lead + text), *exchange]
    if draw < 0.82:
        question = exchange[0]["content"]
        joined = rng.choice(
            (f"{question}\n\n{text}", f"{question}\n\n{text}", f"{text} {question}")
        )
        return [_says("user", joined), *exchange[1:]]
    told = rng.choice(chat["states"]).format(p=text) if rng.random() < 0.5 else text
    noted = rng.choice(chat["acknowledgements"])
    return [_says("user", told), _says("assistant", noted), *exchange]


def _wording(rng: random.Random, preference: WorldPreference) -> str:
    return rng.choice(wordings(preference, "train"))


def _greeted(rng: random.Random, text: str) -> str:
    chat = language()["chat"]
    if rng.random() < 0.08:
        text = f"{rng.choice(chat['greetings'])} {text}"
    if rng.random() < 0.05:
        text = f"{text} {rng.choice(chat['thanks'])}"
    return text


def _misspelt(rng: random.Random, text: str) -> str:
    at = rng.randrange(1, max(2, len(text) - 1))
    change = rng.choice(("drop", "double", "swap"))
    if change == "drop":
        return text[:at] + text[at + 1 :]
    if change == "double":
        return text[:at] + text[at : at + 1] + text[at:]
    return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


def _says(role: str, content: str) -> ChatTurn:
    return {"role": role, "content": content}


def _topic_of(question: Question) -> Topic:
    return next(topic for topic in topics() if topic.name == question.topic)


@cache
def _concerning(topic: Topic, subject: str) -> tuple[WorldPreference, ...]:
    """The preferences that concern the topic and whose pair with the subject is for training."""
    return tuple(
        preference
        for preference in preferences()
        if concerns(preference, topic) and pair_split(topic.name, subject, preference.id) == "train"
    )
