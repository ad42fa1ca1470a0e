"""Scores of a whole or partial response from its log-probs alone: REAR's, and the ends of its λ.

With q the log-prob of the response without the preference and d what the preferences add (REAR, arXiv 2606.30339,
eq. 9), best-of-N by REAR ranks by q + λ d. λ = 1 is the likelihood under the full prompt, λ = 0 that under the
question alone, and λ → ∞ the gain d alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from preftilt import reward as rewards
from preftilt.reward import Reward
from preftilt.rivals.methods import LogprobName
from preftilt.types import Candidate, Query

Rule = Callable[[Candidate, Query, Reward], float]


def rear(candidate: Candidate, query: Query, reward: Reward) -> float:
    """q + λ d, at the query's λ (nats)."""
    return rewards.score(candidate, query, reward)


def full_logprob(candidate: Candidate, query: Query, reward: Reward) -> float:
    """λ = 1. With one preference this is log π(response | question, preference)."""
    return rewards.line_of(candidate, query, reward).at(1.0)


def question_logprob(candidate: Candidate, query: Query, reward: Reward) -> float:
    """λ = 0: log π(response | question)."""
    return rewards.line_of(candidate, query, reward).at(0.0)


def preference_gain(candidate: Candidate, query: Query, reward: Reward) -> float:
    """λ → ∞, or → −∞ where λ is negative: d alone, p − q with one preference."""
    line = rewards.line_of(candidate, query, reward)
    impossible = not math.isfinite(line.question_logprob)
    return -math.inf if impossible else math.copysign(1.0, query.lam) * line.preference_gain


def mean_logprob(candidate: Candidate, query: Query, reward: Reward) -> float:
    """λ = 1 and divided by the number of tokens, whatever ``reward`` reduces by."""
    return full_logprob(candidate, query, replace(reward, reduction="mean"))


def mean_rear(candidate: Candidate, query: Query, reward: Reward) -> float:
    """REAR's score divided by the number of tokens, whatever ``reward`` reduces by."""
    return rear(candidate, query, replace(reward, reduction="mean"))


RULES: dict[LogprobName, Rule] = {
    "rear": rear,
    "full-logprob": full_logprob,
    "question-logprob": question_logprob,
    "preference-gain": preference_gain,
    "mean-logprob": mean_logprob,
}
