"""Scores of whole answers that were measured beside preftilt's reductions and are no setting of its own.

Each maps a pool and λ to a score an answer; λ may be infinite: then the preference gain alone decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from preftilt.eval.reproduce.measured import RecordedAnswer
from preftilt.reward import ScoreLine

Scores = Callable[[Sequence[RecordedAnswer], float], list[float]]

LENGTH_POWER = 0.6
"""α of the length penalty ((5 + L) / 6)^α, within the range that its paper found best (0.6 to 0.7)."""

CLIP = 2.0
"""Nats to which a token's gain is clipped, so that a few tokens cannot decide alone."""


def length_penalty(pool: Sequence[RecordedAnswer], lam: float) -> list[float]:
    """The sum divided by ((5 + L) / 6)^α (Wu et al., 2016, arXiv 1609.08144, eq. 14)."""
    return [
        ScoreLine(answer.question_logprob, answer.preference_gain).at(lam)
        / ((5 + answer.length) / 6) ** LENGTH_POWER
        for answer in pool
    ]


def clipped(pool: Sequence[RecordedAnswer], lam: float) -> list[float]:
    """The sum with every token's gain clipped to :data:`CLIP`."""
    return [
        ScoreLine(answer.question_logprob, float(np.clip(answer.gains, -CLIP, CLIP).sum())).at(lam)
        for answer in pool
    ]


def common_prefix(pool: Sequence[RecordedAnswer], lam: float) -> list[float]:
    """The sum over the first tokens of every answer, as many as the shortest of the pool has."""
    length = min(answer.length for answer in pool)
    return [
        ScoreLine(float(answer.questions[:length].sum()), float(answer.gains[:length].sum())).at(
            lam
        )
        for answer in pool
    ]


OTHER_SCORES: Mapping[str, Scores] = {
    "length penalty": length_penalty,
    "clipped gain": clipped,
    "common prefix": common_prefix,
}
