"""Votes among candidates: every candidate votes for the answer it gives, and the answer with most weight wins."""

from __future__ import annotations

from collections.abc import Sequence


def tally(answers: Sequence[str | None], weights: Sequence[float]) -> list[float | None]:
    """For each candidate the total weight of the answer it gives; None for one that gives none.

    With equal weights this is the majority vote (self-consistency). The published code of REAR weighs a vote by
    1 + the candidate's score as a mean over tokens; such a weight can be negative, and an answer then loses by every
    further vote.
    """
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    return [None if answer is None else totals[answer] for answer in answers]
