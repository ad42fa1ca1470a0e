"""A reward model for the demo world that knows its tables.

``--reward-model preftilt.eval.accuracy.world_reward:exact`` shows what decoding makes of a reward that is right. Tastes
for things are its subject; of the form of an answer it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from preftilt.demo.world import WorldPreference, preferences
from preftilt.demo.world.checking import mentions
from preftilt.rivals import Pair


def exact(pairs: Sequence[Pair]) -> list[float]:
    """One more for every recommendation that the stated taste allows, one less for every other; 0 for styles."""
    return [_reward(messages[0].content, response) for messages, response in pairs]


def _reward(stated: str, response: str) -> float:
    taste = _tastes().get(stated.strip())
    if taste is None or taste.kind == "style":
        return 0.0
    wanted = taste.kind == "want"
    named = [recommendation for recommendation, _, _ in mentions(response)]
    return float(
        sum(1 if (taste.key in recommendation.tags) == wanted else -1 for recommendation in named)
    )


@cache
def _tastes() -> dict[str, WorldPreference]:
    return {text: preference for preference in preferences() for text in preference.texts}
