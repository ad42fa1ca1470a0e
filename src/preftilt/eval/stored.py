"""Candidates as records keep them: the two numbers every λ is made of; any λ, N and reward can be read off them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from preftilt.rank import order
from preftilt.reward import HasSums, Reward, reduced


class Scored(HasSums, Protocol):
    """A candidate's sums in λ, and whether it ended by itself."""

    @property
    def finished(self) -> bool: ...


CandidateT = TypeVar("CandidateT", bound=Scored)


def best_of(pool: Sequence[CandidateT], lam: float, reward: Reward) -> CandidateT:
    """What best-of-n picks from ``pool``, which stands in the order drawn (see :mod:`preftilt.rank`).

    λ may be infinite: then the preference gain alone decides.
    """
    cut_off = [not candidate.finished for candidate in pool]
    return pool[order(scores(pool, lam, reward), cut_off, reward.cut_off)[0]]


def scores(pool: Sequence[HasSums], lam: float, reward: Reward) -> list[float]:
    """S at λ of every candidate of a pool; −inf for one that must not win."""
    return [line.at(lam) for line in reduced(pool, reward)]


def recorded_sums(candidate: Mapping[str, Any]) -> tuple[float, float]:
    """Question log-prob and preference gain (nats) that a candidate's record keeps under ``sums``.

    −inf and 0 for one with a token that some view holds impossible.
    """
    question, gain = (candidate["sums"][name] for name in ("question_logprob", "preference_gain"))
    return (-math.inf, 0.0) if question is None or gain is None else (question, gain)
