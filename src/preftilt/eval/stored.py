"""Candidates as records keep them: the two numbers every λ is made of; any λ, N and reduction can be read off them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

from preftilt.types import Reduction


class Scored(Protocol):
    """A candidate's line in λ. Both log-probs are sums (nats) over the ``length`` tokens that are scored.

    ``question_logprob`` is −inf for a candidate with an impossible token.
    """

    @property
    def length(self) -> int: ...

    @property
    def finished(self) -> bool: ...

    @property
    def question_logprob(self) -> float: ...

    @property
    def preference_gain(self) -> float: ...


One = TypeVar("One", bound=Scored)


def best_of(pool: Sequence[One], lam: float, reduction: Reduction) -> One:
    """What best-of-n picks from ``pool``: finished first, then the score; the first drawn wins ties.

    λ may be infinite: then the preference gain alone decides.
    """
    return max(pool, key=lambda one: (one.finished, score(one, lam, reduction)))


def score(one: Scored, lam: float, reduction: Reduction) -> float:
    """S at λ, divided by the number of tokens under ``mean``; −inf for a candidate that must not win."""
    if not math.isfinite(one.question_logprob):
        return -math.inf
    known = 0.0 if math.isinf(lam) else one.question_logprob
    weight = 1.0 if math.isinf(lam) else lam
    total = known + weight * one.preference_gain
    return total / max(one.length, 1) if reduction == "mean" else total
