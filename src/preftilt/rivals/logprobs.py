"""Scores of whole or partial responses from their log-probs alone: REAR's, and the ends of its λ.

With q the log-prob of a response without the preference and d what the preferences add (REAR, arXiv 2606.30339,
eq. 9), best-of-N by REAR ranks by q + λ d. λ = 1 is the likelihood under the full prompt, λ = 0 that under the
question alone, and λ → ∞ the gain d alone. All are scores of a pool, in its order, reduced as the reward says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from preftilt import reward as rewards
from preftilt.reward import Reward
from preftilt.rivals.methods import LogprobName
from preftilt.types import Candidate, Query

Rule = Callable[[Sequence[Candidate], Query, Reward], list[float]]


def full_logprob(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ = 1. With one preference this is log π(response | question, preference)."""
    return _at(1.0, pool, query, reward)


def question_logprob(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ = 0: log π(response | question)."""
    return _at(0.0, pool, query, reward)


def preference_gain(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ → ∞, or → −∞ where λ is negative: d alone, p − q with one preference."""
    return _at(math.copysign(math.inf, query.lam), pool, query, reward)


def mean_logprob(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ = 1 and divided by the number of tokens, whatever ``reward`` reduces by."""
    return full_logprob(pool, query, replace(reward, reduction="mean"))


def mean_rear(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """REAR's score divided by the number of tokens, whatever ``reward`` reduces by."""
    return rewards.scores(pool, query, replace(reward, reduction="mean"))


def _at(lam: float, pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    return [line.at(lam) for line in rewards.lines_of(pool, query, reward)]


RULES: dict[LogprobName, Rule] = {
    "rear": rewards.scores,
    "full-logprob": full_logprob,
    "question-logprob": question_logprob,
    "preference-gain": preference_gain,
    "mean-logprob": mean_logprob,
}
