"""From a judge's words to a rating, and from a rating to an item's numbers; pure functions."""

from __future__ import annotations

import re

BEST = 6
HALLUCINATED_BELOW = 3

VALUES = ("rating", "score", "hallucinated")
"""What an item is scored with: the rating from 0 to 6, that divided by 6, and whether something is made up."""

_RATING = re.compile(r"rating\W*([0-9]+)(?![0-9]|[.,/][0-9])", re.IGNORECASE)
_OUT_OF = re.compile(r"rating\W*([0-6])\s*/\s*6\b", re.IGNORECASE)


def read_rating(text: str) -> int | None:
    """The whole number from 0 to 6 behind "Rating:"; None without one, and where several differ."""
    ratings = {int(digits) for digits in (*_OUT_OF.findall(text), *_RATING.findall(text))}
    return ratings.pop() if len(ratings) == 1 and max(ratings) <= BEST else None


def rate(rating: int | None) -> dict[str, float | None]:
    """An item's numbers by the names of :data:`VALUES`."""
    if rating is None:
        return dict.fromkeys(VALUES)
    return {
        "rating": float(rating),
        "score": rating / BEST,
        "hallucinated": float(rating < HALLUCINATED_BELOW),
    }
