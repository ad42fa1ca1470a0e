"""The λ-path: which candidate wins for which λ, exactly.

Every candidate's score is a line in λ, so the winner as a function of λ is the upper envelope of N lines. The gain of
the winner never falls along the path and its question log-prob never rises: the mechanism behind the paper's Figure 3.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from preftilt.reward import ScoreLine


@dataclass(frozen=True, slots=True)
class PathSegment:
    """``candidate`` (an index) wins for ``start`` ≤ λ < ``stop``; the last segment's ``stop`` is +inf."""

    start: float
    stop: float
    candidate: int


def upper_envelope(lines: Sequence[ScoreLine], start: float = 0.0) -> tuple[PathSegment, ...]:
    """The winners for λ ≥ ``start``, left to right, in O(N log N). The first of equal lines wins.

    Lines that are not finite never win, unless none is finite: then the first candidate holds the whole path.
    """
    finite = [i for i, line in enumerate(lines) if math.isfinite(line.at(start))]
    if not finite:
        return (PathSegment(start, math.inf, 0),) if lines else ()
    hull: list[int] = []
    starts: list[float] = []
    for i in sorted(finite, key=lambda i: (lines[i].preference_gain, lines[i].at(start), -i)):
        takes_over = start
        while hull:
            takes_over = _crossing(lines[hull[-1]], lines[i], start)
            if takes_over > starts[-1]:
                break
            hull.pop()
            starts.pop()
            takes_over = start
        if takes_over < math.inf:
            hull.append(i)
            starts.append(takes_over)
    stops = [*starts[1:], math.inf]
    return tuple(map(PathSegment, starts, stops, hull))


def winner(path: Sequence[PathSegment], lam: float) -> int:
    """The candidate that wins at ``lam``, which must not lie left of the path."""
    if not path or lam < path[0].start:
        raise ValueError(f"lambda {lam} lies outside the path")
    return path[bisect.bisect_right([segment.start for segment in path], lam) - 1].candidate


def _crossing(low: ScoreLine, high: ScoreLine, start: float) -> float:
    """The λ from which ``high`` (gain not smaller) beats ``low``; −inf if it does so at ``start`` already."""
    if high.at(start) >= low.at(start) or high.preference_gain == low.preference_gain:
        return -math.inf
    slope = high.preference_gain - low.preference_gain
    return start + (low.at(start) - high.at(start)) / slope
