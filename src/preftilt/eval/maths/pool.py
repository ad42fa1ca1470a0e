"""From a pool of candidates to what each way of choosing makes of it; pure functions over an answer's record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from preftilt.eval.stored import best_of, recorded_sums, scores
from preftilt.rank import order
from preftilt.reward import Reward
from preftilt.rivals.extractors import final_answer, maths
from preftilt.rivals.votes import tally

CHOICES = ("majority", "weighted", "rear", "any", "sample")
"""Ways of choosing: majority vote; vote weighed by 1 + mean score; REAR's best candidate; any right answer at all (what
no way of choosing can exceed); and one candidate at random (what choosing starts from)."""

Check = Callable[[str], bool | None]
"""Whether an answer is right; None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A candidate. answer: as it was written; None without one. Its log-probs are sums over ``length`` tokens (nats),
    −inf if a token is impossible."""

    slot: int
    finished: bool
    answer: str | None
    key: str | None
    length: int
    question_logprob: float
    preference_gain: float


@dataclass(frozen=True, slots=True)
class SolutionPool:
    """The candidates of an answer, in the order drawn, and what REAR picks among them by."""

    solutions: Sequence[Solution]
    lam: float
    reward: Reward

    def first(self, n: int) -> SolutionPool:
        """With the first ``n`` candidates alone."""
        return SolutionPool(self.solutions[:n], self.lam, self.reward)


def solved(record: Mapping[str, Any]) -> SolutionPool:
    """The pool of an answer's record (``harness.drawing.short_record``)."""
    settings = record["settings"]
    solutions = [_solution(candidate) for candidate in record["candidates"]]
    reward = Reward(**{field.name: settings[field.name] for field in fields(Reward)})
    return SolutionPool(
        sorted(solutions, key=lambda solution: solution.slot), settings["lambda"], reward
    )


def curve(n: int) -> list[int]:
    """The powers of two below ``n``: the sizes at which a pool is looked at besides its own."""
    return [2**k for k in range(n.bit_length()) if 2**k < n]


def columns(curve_of: Sequence[int]) -> list[str]:
    """The names of :func:`choose`'s numbers: of the whole pool, and of its first candidates."""
    return [*CHOICES, *(f"{name}_{n}" for n in curve_of for name in CHOICES)]


def choose(pool: SolutionPool, curve_of: Sequence[int], right: Check) -> dict[str, float | None]:
    """Whether each way of choosing gives the right answer, from the whole pool and from its first n candidates."""
    values = _chosen(pool, right)
    for n in curve_of:
        values |= {f"{name}_{n}": value for name, value in _chosen(pool.first(n), right).items()}
    return values


def _chosen(pool: SolutionPool, right: Check) -> dict[str, float | None]:
    keys = [solution.key for solution in pool.solutions]
    means = scores(pool.solutions, pool.lam, replace(pool.reward, reduction="mean"))
    weights = [1.0 + mean if math.isfinite(mean) else 0.0 for mean in means]
    verdicts = [_right(solution, right) for solution in pool.solutions]
    known = [verdict for verdict in verdicts if verdict is not None]
    whole = len(known) == len(verdicts)
    return {
        "majority": _right(_voted(pool, tally(keys, [1.0] * len(keys))), right),
        "weighted": _right(_voted(pool, tally(keys, weights)), right),
        "rear": _right(best_of(pool.solutions, pool.lam, pool.reward), right),
        "any": max(known) if whole or 1.0 in known else None,
        "sample": sum(known) / len(known) if whole else None,
    }


def _voted(pool: SolutionPool, totals: Sequence[float | None]) -> Solution:
    """Who gives the answer with most weight."""
    cut_off = [not solution.finished for solution in pool.solutions]
    return pool.solutions[order(totals, cut_off, pool.reward.cut_off, vote=True)[0]]


def _right(solution: Solution, right: Check) -> float | None:
    """No answer is a wrong one."""
    if solution.answer is None:
        return 0.0
    verdict = right(solution.answer)
    return None if verdict is None else float(verdict)


def _solution(candidate: Mapping[str, Any]) -> Solution:
    question, gain = recorded_sums(candidate)
    return Solution(
        slot=candidate["slot"],
        finished=candidate["finish"] == "eos",
        answer=final_answer(candidate["text"]),
        key=maths(candidate["text"]),
        length=candidate["sums"]["length"],
        question_logprob=question,
        preference_gain=gain,
    )
