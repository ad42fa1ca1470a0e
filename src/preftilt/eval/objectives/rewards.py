"""Rewards of an answer to an item of the demo world: exact, in [0, 1], higher better.

The world's checker takes the answer apart; nothing is estimated. The objectives pull apart on purpose: an answer that
helps more is longer, and heeding the preference is a matter of its own.
"""

from __future__ import annotations

from functools import cache

from preftilt.arm.spec import Objective
from preftilt.demo.world import WorldItem, WorldVerdict, check, preference, topics

FULL_COUNT = 5
"""Recommendations that make an answer as helpful as can be."""

FULL_WORDS = 80
"""Words from which on an answer is not brief at all."""

BETA = 0.1

HELPFUL = "helpful"
KEEPING = "keeping"
BRIEF = "brief"

DESCRIPTIONS = {
    HELPFUL: "Recommend many different things that answer the question.",
    KEEPING: "Follow the preference: recommend only what the user would like.",
    BRIEF: "Keep the answer short, in as few words as possible.",
}


def objectives(beta: float = BETA) -> tuple[Objective, ...]:
    """The three objectives, all with the same β."""
    return tuple(Objective(name, text, beta) for name, text in DESCRIPTIONS.items())


def rewards(item: WorldItem, answer: str) -> dict[str, float]:
    """What each objective thinks of ``answer``.

    helpful: 0 unless the checker finds it helpful, else the number of recommendations, of five at most, as a share.
    keeping: for something to avoid, the share of what is recommended that avoids it; for something wanted, twice the
    share that has it, at most 1; for a style, whether the answer has it; 0 if nothing is recommended.
    brief: 1 for no words, 0 from eighty words on.
    """
    verdict = check(item, answer)
    count = len(set(verdict.recommended))
    return {
        HELPFUL: min(count, FULL_COUNT) / FULL_COUNT if verdict.helpful else 0.0,
        KEEPING: _keeping(item, verdict),
        BRIEF: max(0.0, 1 - len(answer.split()) / FULL_WORDS),
    }


def _keeping(item: WorldItem, verdict: WorldVerdict) -> float:
    if not verdict.recommended:
        return 0.0
    if item.kind == "style":
        return float(not verdict.violates)
    key = preference(item.preference_id).key
    tags_of_each = [_tags()[recommendation] for recommendation in verdict.recommended]
    share = sum(key in tags for tags in tags_of_each) / len(tags_of_each)
    return 1 - share if item.kind == "avoid" else min(1.0, 2 * share)


@cache
def _tags() -> dict[str, frozenset[str]]:
    """The tags of every recommendation of the world, by its id."""
    return {
        recommendation.id: recommendation.tags
        for each in topics()
        for recommendation in each.recommendations
    }
