"""From a judge's words to a grade, and from grades to a row's numbers; pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from preftilt.eval.multifaceted.protocol import Missing

VALUES = ("score", "rating")
"""What an item is scored with: the mean grade divided by 5 (from 0.2 to 1, as in the REAR paper), and the mean."""

_RESULT = re.compile(r"\[RESULT\]\W*([0-9]+)(?![0-9]|[.,/][0-9])", re.IGNORECASE)
_OUT_OF = re.compile(r"\[RESULT\]\W*([1-5])\s*/\s*5\b", re.IGNORECASE)


def read_grade(text: str) -> int | None:
    """The whole number from 1 to 5 behind the last ``[RESULT]``; None without one ("3/5" is 3, "3.5" is none)."""
    digits = _OUT_OF.findall(text) or _RESULT.findall(text)
    grade = int(digits[-1]) if digits and len(digits[-1]) == 1 else 0
    return grade if 1 <= grade <= 5 else None


def rate(grades: Sequence[int | None], missing: Missing) -> dict[str, float | None]:
    """A row's numbers by the names of :data:`VALUES`; ``grades`` are those of all rubrics and runs."""
    known = [grade for grade in grades if grade is not None]
    if not known or (missing == "skip-row" and len(known) < len(grades)):
        return dict.fromkeys(VALUES)
    rating = sum(known) / len(known)
    return {"score": rating / 5, "rating": rating}
