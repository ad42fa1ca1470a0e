"""Candidates as records keep them: the two numbers every λ is made of; all else can be read off them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.reward import HasSums, Reward, order, reduced
from preftilt.rivals.votes import tally


class Ended(Protocol):
    """What tells whether it ended by itself."""

    @property
    def finished(self) -> bool: ...


class Scored(HasSums, Ended, Protocol):
    """A candidate's sums in λ, and whether it ended by itself."""


EndedT = TypeVar("EndedT", bound=Ended)
CandidateT = TypeVar("CandidateT", bound=Scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAnswer:
    """An answer; its log-probs are sums over ``length`` tokens (nats), −inf if a token is impossible.

    ``questions`` and ``gains`` [length] are those of its tokens; empty where they were not kept.
    """

    text: str
    length: int
    finished: bool
    question_logprob: float
    preference_gain: float
    questions: Float[np.ndarray, "T"] = field(default_factory=lambda: np.empty(0), compare=False)
    gains: Float[np.ndarray, "T"] = field(default_factory=lambda: np.empty(0), compare=False)


def recorded_answer(candidate: Mapping[str, Any]) -> RecordedAnswer:
    """A candidate of ``harness.drawing.short_record``; −inf and 0 for one with a token that a view holds impossible."""
    sums = candidate["sums"]
    question, gain = sums["question_logprob"], sums["preference_gain"]
    if question is None or gain is None:
        question, gain = -math.inf, 0.0
    return RecordedAnswer(
        text=candidate["text"],
        length=max(sums["length"], 1),
        finished=candidate["finish"] == "eos",
        question_logprob=question,
        preference_gain=gain,
    )


def scores(pool: Sequence[HasSums], lam: float, reward: Reward) -> list[float]:
    """S at λ of every candidate of a pool; −inf for one that must not win."""
    return [line.at(lam) for line in reduced(pool, reward)]


def first_by(
    pool: Sequence[EndedT],
    values: Sequence[float | None],
    reward: Reward = Reward(),  # noqa: B008  (frozen)
    *,
    vote: bool = False,
) -> EndedT:
    """The first of ``pool``, which stands in the order drawn, by any ``values`` (see :mod:`preftilt.reward`)."""
    cut_off = [not candidate.finished for candidate in pool]
    return pool[order(values, cut_off, reward.cut_off, vote=vote)[0]]


def best_of(pool: Sequence[CandidateT], lam: float, reward: Reward) -> CandidateT:
    """What best-of-n picks from ``pool``; λ may be infinite: then the preference gain alone decides."""
    return first_by(pool, scores(pool, lam, reward), reward)


def elected(
    pool: Sequence[RecordedAnswer],
    read: Callable[[str], str | None],
    lam: float | None,
    reward: Reward = Reward(),  # noqa: B008  (frozen)
) -> RecordedAnswer:
    """Who gives the answer that most of ``pool`` give, as ``read`` takes it from a text.

    With a λ a vote weighs 1 plus the score as a mean over tokens, or nothing for a response with an impossible token.
    """
    weights = [1.0] * len(pool)
    if lam is not None:
        means = scores(pool, lam, replace(reward, reduction="mean"))
        weights = [1.0 + mean if math.isfinite(mean) else 0.0 for mean in means]
    totals = tally([read(candidate.text) for candidate in pool], weights)
    return first_by(pool, totals, reward, vote=True)
