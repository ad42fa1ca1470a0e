"""From a pool of candidates to what each way of choosing makes of it; pure functions over an answer's record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preftilt.rivals.answers import final_answer, maths
from preftilt.rivals.votes import tally

CHOICES = ("majority", "weighted", "rear", "any", "sample")
"""Ways of choosing: majority vote; vote weighed by 1 + mean score; REAR's best candidate; any right answer at all (what
no way of choosing can exceed); and one candidate at random (what choosing starts from)."""

Check = Callable[[str], bool | None]
"""Whether an answer is right; None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A candidate. answer: as it was written; None without one. score, mean: REAR's, by the run's reduction and as a
    mean over tokens; None if it has an impossible token."""

    slot: int
    finished: bool
    answer: str | None
    key: str | None
    score: float | None
    mean: float | None


def solutions(record: Mapping[str, Any]) -> list[Solution]:
    """The pool of an answer's record (``frame.drawing.short_record``), in the order drawn."""
    settings = record["settings"]
    found = [_solution(one, settings) for one in record["candidates"]]
    return sorted(found, key=lambda one: one.slot)


def curve(n: int) -> list[int]:
    """The powers of two below ``n``: the sizes at which a pool is looked at besides its own."""
    return [2**k for k in range(n.bit_length()) if 2**k < n]


def columns(curve_of: Sequence[int]) -> list[str]:
    """The names of :func:`choose`'s numbers: of the whole pool, and of its first candidates."""
    return [*CHOICES, *(f"{name}_{n}" for n in curve_of for name in CHOICES)]


def choose(
    pool: Sequence[Solution], curve_of: Sequence[int], right: Check
) -> dict[str, float | None]:
    """Whether each way of choosing gives the right answer, from the whole pool and from its first n candidates."""
    found = _chosen(pool, right)
    for n in curve_of:
        found |= {f"{name}_{n}": value for name, value in _chosen(pool[:n], right).items()}
    return found


def _chosen(pool: Sequence[Solution], right: Check) -> dict[str, float | None]:
    keys = [one.key for one in pool]
    weights = [0.0 if one.mean is None else 1.0 + one.mean for one in pool]
    verdicts = [_right(one, right) for one in pool]
    known = [one for one in verdicts if one is not None]
    whole = len(known) == len(verdicts)
    return {
        "majority": _right(_voted(pool, tally(keys, [1.0] * len(pool))), right),
        "weighted": _right(_voted(pool, tally(keys, weights)), right),
        "rear": _right(_best(pool), right),
        "any": max(known) if whole or 1.0 in known else None,
        "sample": sum(known) / len(known) if whole else None,
    }


def _voted(pool: Sequence[Solution], totals: Sequence[float | None]) -> Solution:
    """Who gives the answer with most weight; among equals one that ended, then the first drawn, as in the method."""

    def place(i: int) -> tuple[float, ...]:
        total = totals[i]
        return (1, 0.0, 0, i) if total is None else (0, -total, not pool[i].finished, i)

    return pool[min(range(len(pool)), key=place)]


def _best(pool: Sequence[Solution]) -> Solution:
    def place(one: Solution) -> tuple[float, ...]:
        standing = (1, 0.0) if one.score is None else (0, -one.score)
        return (not one.finished, *standing, one.slot)

    return min(pool, key=place)


def _right(one: Solution, right: Check) -> float | None:
    """No answer is a wrong one."""
    if one.answer is None:
        return 0.0
    verdict = right(one.answer)
    return None if verdict is None else float(verdict)


def _solution(one: Mapping[str, Any], settings: Mapping[str, Any]) -> Solution:
    finished = one["finish"] == "eos"
    scored = one["tokens"] - (settings["eos"] == "exclude" and finished)
    score = one["score"]
    by_token = score is None or settings["reduction"] == "mean"
    return Solution(
        slot=one["slot"],
        finished=finished,
        answer=final_answer(one["text"]),
        key=maths(one["text"]),
        score=score,
        mean=score if by_token else score / max(scored, 1),
    )
