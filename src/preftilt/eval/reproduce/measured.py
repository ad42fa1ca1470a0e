"""What was measured on an item, as records keep it: answers with the numbers that every λ is made of, and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preftilt.eval.answers import RecordedAnswer
from preftilt.eval.harness.benchmark import Case, Json


@dataclass(frozen=True, slots=True)
class AnswerCost:
    """What an answer cost: tokens ``sampled``, tokens ``scored`` (read besides, by the model itself, by a reward model
    or by a judging model), and ``judged``, the readings of a reward model or judging model."""

    sampled: float = 0.0
    scored: float = 0.0
    judged: float = 0.0

    def __add__(self, other: AnswerCost) -> AnswerCost:
        return AnswerCost(
            self.sampled + other.sampled, self.scored + other.scored, self.judged + other.judged
        )


@dataclass(frozen=True, slots=True)
class CostedAnswer:
    """An answer that was made for itself, and what it cost."""

    answer: RecordedAnswer
    spent: AnswerCost


@dataclass(frozen=True, slots=True)
class SamplePool:
    """Samples in slot order. ``scored_views`` had to be scored besides; the sampler's log-probs stood in for others."""

    answers: tuple[RecordedAnswer, ...]
    scored_views: frozenset[str]

    def spent(self, n: int, views: frozenset[str]) -> AnswerCost:
        """The cost of the first ``n`` and of their scores under ``views``; equal answers are scored once."""
        drawn = self.answers[:n]
        distinct = {answer.text: answer.length for answer in drawn}
        passes = len(views & self.scored_views)
        return AnswerCost(sum(answer.length for answer in drawn), passes * sum(distinct.values()))

    def guided(self, n: int) -> AnswerCost:
        """The cost of the first ``n`` where they were guided: every token was read under a second view, too."""
        tokens = sum(answer.length for answer in self.answers[:n])
        return AnswerCost(tokens, tokens)


@dataclass(frozen=True, slots=True)
class PoolRatings:
    """A score for each of the pool's first answers, None where there is none. ``sure``: probability of Yes and No."""

    scores: tuple[float | None, ...]
    spent: AnswerCost
    sure: float | None = None


@dataclass(frozen=True, slots=True)
class ItemMeasurements:
    """Everything measured on an item; what was not measured is missing. ``skipped`` says by part why it has no numbers.

    trees: by λ. guided, draws (pools of guided answers), ratings, seconds: by the method's name; timing: what taking
    the times cost. prompt: tokens of the prompt with the preference.
    """

    case: Case
    greedy: CostedAnswer | None = None
    pool: SamplePool | None = None
    prompt: int = 0
    trees: Mapping[float, CostedAnswer] = field(default_factory=dict)
    guided: Mapping[str, CostedAnswer] = field(default_factory=dict)
    draws: Mapping[str, SamplePool] = field(default_factory=dict)
    ratings: Mapping[str, PoolRatings] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    timing: AnswerCost = AnswerCost()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens sampled and scored to measure it. Tree searches count as if each had been alone."""
        parts = [
            self.timing,
            *(costed.spent for costed in (*self.trees.values(), *self.guided.values())),
            *(rating.spent for rating in self.ratings.values()),
            *(pool.guided(len(pool.answers)) for pool in self.draws.values()),
        ]
        if self.pool is not None:
            views = self.pool.scored_views
            parts.append(self.pool.spent(len(self.pool.answers), views))
            if self.greedy is not None:
                # It is scored like a sample, though greedy decoding needs no score.
                scored = len(views) * self.greedy.answer.length
                parts.append(self.greedy.spent + AnswerCost(0, scored))
        return int(sum(cost.sampled + cost.scored for cost in parts))


def read_measurements(case: Case, records: Sequence[Json]) -> ItemMeasurements:
    """What the records of an item's parts hold."""
    parts: dict[str, Any] = {"ratings": {}, "skipped": {}, "guided": {}, "draws": {}}
    for record in records:
        if "skipped" in record:
            parts["skipped"][record["part"]] = record["skipped"]
        if "pool" in record:
            parts["prompt"] = record["prompt"]
            parts["greedy"] = read_costed(record["greedy"]) if "greedy" in record else None
            answers = tuple(read_answer(each) for each in record["pool"])
            parts["pool"] = SamplePool(answers, frozenset(record["scored_views"]))
        if "trees" in record:
            parts["trees"] = {
                float(lam): read_costed(each) for lam, each in record["trees"].items()
            }
        if "guided" in record:
            parts["guided"] |= {name: read_costed(each) for name, each in record["guided"].items()}
        if "draws" in record:
            parts["draws"] = {
                name: SamplePool(tuple(map(read_answer, pool)), frozenset())
                for name, pool in record["draws"].items()
            }
        if "scores" in record:
            parts["ratings"][record["by"]] = PoolRatings(
                tuple(record["scores"]), AnswerCost(**record["spent"]), record.get("sure")
            )
        if "seconds" in record:
            parts["seconds"] = parts.get("seconds", {}) | record["seconds"]
            parts["timing"] = parts.get("timing", AnswerCost()) + AnswerCost(*record["spent"])
    return ItemMeasurements(case, **parts)


def costed_record(made: CostedAnswer) -> dict[str, Any]:
    """As :func:`read_costed` reads it."""
    spent = made.spent
    return answer_record(made.answer) | {"spent": [spent.sampled, spent.scored, spent.judged]}


def read_costed(record: Json) -> CostedAnswer:
    return CostedAnswer(read_answer(record), AnswerCost(*record["spent"]))


def answer_record(answer: RecordedAnswer) -> dict[str, Any]:
    """As :func:`read_answer` reads it; JSON has no infinity."""
    finite = math.isfinite(answer.question_logprob)
    known = finite and answer.gains.size > 0
    kept = {"questions": answer.questions, "gains": answer.gains} if known else {}
    return {
        "text": answer.text,
        "length": answer.length,
        "finished": answer.finished,
        "question_logprob": answer.question_logprob if finite else None,
        "preference_gain": answer.preference_gain if finite else None,
        **{name: [round(value, 3) for value in values.tolist()] for name, values in kept.items()},
    }


def read_answer(record: Json) -> RecordedAnswer:
    question, gain = record["question_logprob"], record["preference_gain"]
    return RecordedAnswer(
        text=record["text"],
        length=record["length"],
        finished=record["finished"],
        question_logprob=-math.inf if question is None else question,
        preference_gain=0.0 if gain is None else gain,
        questions=np.array(record.get("questions", ()), dtype=np.float64),
        gains=np.array(record.get("gains", ()), dtype=np.float64),
    )
