"""The λ-path equals brute force, also with ties, duplicates and impossible candidates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.path import PathSegment, upper_envelope, winner
from preftilt.reward import ScoreLine

coarse = st.integers(-6, 6).map(float)
fine = st.floats(-1e3, 1e3, allow_subnormal=False)
lines = st.lists(
    st.one_of(
        st.builds(ScoreLine, coarse, coarse),
        st.builds(ScoreLine, fine, fine),
        st.just(ScoreLine(-math.inf, 0.0)),
    ),
    min_size=1,
    max_size=24,
)
starts = st.sampled_from([0.0, -3.0, -20.0])


@given(lines, starts)
def test_the_path_s_winner_has_the_highest_score_everywhere(candidates, start):
    path = upper_envelope(candidates, start)
    inner = [x for segment in path for x in (segment.start, min(segment.stop, segment.start + 1e6))]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(inner)]
    for lam in [*np.linspace(start, 60, 49), *inner, *middles]:
        best = max(candidate.at(lam) for candidate in candidates)
        chosen = candidates[winner(path, lam)].at(lam)
        assert chosen == pytest.approx(best, rel=1e-9, abs=1e-7 * (1 + abs(lam)))


@given(lines, starts)
def test_the_path_covers_every_lambda_once(candidates, start):
    path = upper_envelope(candidates, start)
    assert path[0].start == start
    assert path[-1].stop == math.inf
    assert all(a.stop == b.start > a.start for a, b in itertools.pairwise(path))


@given(lines, starts)
def test_gain_rises_and_question_logprob_falls_along_the_path(candidates, start):
    won = [candidates[one.candidate] for one in upper_envelope(candidates, start)]
    gains = [candidate.preference_gain for candidate in won]
    assert gains == sorted(gains)
    questions = [candidate.question_logprob for candidate in won]
    if all(map(math.isfinite, questions)) and start == 0.0:
        assert all(b <= a + 1e-6 for a, b in itertools.pairwise(questions))


def test_the_first_of_equal_candidates_wins():
    same = ScoreLine(-2.0, 1.0)
    assert upper_envelope([same, same, ScoreLine(-5.0, 0.0), same]) == (
        PathSegment(0.0, math.inf, 0),
    )


def test_where_two_lines_cross_the_steeper_takes_over():
    path = upper_envelope([ScoreLine(-1.0, 0.0), ScoreLine(-3.0, 1.0), ScoreLine(-2.0, 0.1)])
    assert path == (PathSegment(0.0, 2.0, 0), PathSegment(2.0, math.inf, 1))


def test_impossible_candidates_win_only_among_themselves():
    none = ScoreLine(-math.inf, 0.0)
    assert upper_envelope([none, ScoreLine(-9.0, -9.0)]) == (PathSegment(0.0, math.inf, 1),)
    assert upper_envelope([none, none]) == (PathSegment(0.0, math.inf, 0),)
    assert upper_envelope([]) == ()


def test_a_lambda_left_of_the_path_is_refused():
    with pytest.raises(ValueError, match="outside the path"):
        winner(upper_envelope([ScoreLine(0.0, 0.0)]), -1.0)
