"""The one order of scored responses, and the λ-path that goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.eval.answers import best_of
from preftilt.path import upper_envelope, winner
from preftilt.result import ScoredCandidate
from preftilt.reward import IMPOSSIBLE, Reward, Sums, contenders, lines, order, reduced
from preftilt.search import Score, best, rank
from preftilt.types import Candidate, CutOff, Finish

LENGTH, EOS = True, False
rules = st.sampled_from(["last", "as-is"])
marks = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-3, 3).map(float), st.just(-math.inf)), st.booleans()
    ),
    min_size=1,
    max_size=9,
)


@pytest.mark.parametrize(
    ("rule", "vote", "ranked"),
    [
        ("last", False, [1, 3, 4, 0, 2]),
        ("as-is", False, [0, 1, 3, 2, 4]),
        ("last", True, [0, 1, 3, 2, 4]),
        ("as-is", True, [0, 1, 3, 2, 4]),
    ],
)
def test_an_answer_s_end_counts_before_its_score_or_not_at_all(rule, vote, ranked):
    scores = [9.0, 5.0, -math.inf, 5.0, None]
    assert order(scores, [LENGTH, EOS, LENGTH, EOS, EOS], rule, vote=vote) == ranked


@pytest.mark.parametrize("finish", get_args(Finish))
@pytest.mark.parametrize(("thoughts", "length"), [(0, 0), (0, 2), (1, 2), (2, 2)])
def test_a_record_calls_cut_off_what_the_ranking_does(finish, thoughts, length):
    tokens, none = (1,) * length, np.zeros(0)
    ranked = Candidate(tokens, np.zeros((1, length)), finish, thoughts=thoughts)
    recorded = ScoredCandidate(
        rank=1,
        slot=0,
        text="",
        tokens=tokens,
        finish=finish,
        logprobs={},
        gains=none,
        question_logprob=0.0,
        preference_gain=0.0,
        score=0.0,
        sums=Sums(0.0, 0.0, length),
        thoughts=thoughts,
    )
    assert recorded.cut_off == ranked.cut_off == (finish == "length" or thoughts == 2)


def test_in_a_vote_an_answer_cut_off_hands_its_place_to_one_that_ended():
    votes: list[float | None] = [2.0, 1.0, 2.0]
    assert order(votes, [LENGTH, EOS, EOS], "last", vote=True) == [2, 0, 1]
    assert order(votes, [LENGTH, EOS, EOS], "as-is", vote=True) == [0, 2, 1]


@given(marks, rules, st.booleans())
def test_every_response_has_one_place_and_the_first_drawn_wins_ties(given_marks, rule, vote):
    scores, cut_off = map(list, zip(*given_marks, strict=True))
    ranked = order(scores, cut_off, rule, vote=vote)
    assert sorted(ranked) == list(range(len(scores)))
    alike: dict[tuple[float | None, bool], list[int]] = {}
    for i in ranked:
        alike.setdefault((scores[i], cut_off[i]), []).append(i)
    assert all(group == sorted(group) for group in alike.values())


@given(marks, rules)
def test_the_first_in_order_is_the_best_of_those_that_may_win(given_marks, rule):
    scores, cut_off = map(list, zip(*given_marks, strict=True))
    able = contenders(cut_off, rule)
    assert any(able)
    first = order(scores, cut_off, rule)[0]
    assert able[first]
    known = [score for score, may_win in zip(scores, able, strict=True) if may_win]
    assert scores[first] == max(
        known, key=lambda one: -math.inf if one is None else one, default=None
    ) or (scores[first] is not None and scores[first] == -math.inf)


@dataclass(frozen=True)
class Kept:
    """A candidate as records keep it."""

    length: int
    finished: bool
    question_logprob: float
    preference_gain: float


coarse = st.integers(-40, 0).map(lambda x: x / 4)
kept = st.lists(
    st.builds(
        Kept,
        st.integers(1, 9),
        st.booleans(),
        st.one_of(coarse, coarse, st.just(-math.inf)),
        st.integers(-12, 12).map(lambda x: x / 4),
    ),
    min_size=1,
    max_size=9,
)
rewards = st.builds(
    Reward,
    reduction=st.sampled_from(["sum", "mean", "centred"]),
    cut_off=rules,
    gamma=st.sampled_from([1.0, 0.75]),
)


@given(kept, rewards)
def test_the_path_names_the_winner_of_every_lambda_by_every_reduction_and_rule(pool, reward):
    able = contenders([not candidate.finished for candidate in pool], reward.cut_off)
    found = [
        line if may_win else IMPOSSIBLE
        for line, may_win in zip(reduced(pool, reward), able, strict=True)
    ]
    path = upper_envelope(found)
    inside = [(segment.start + min(segment.stop, segment.start + 1)) / 2 for segment in path]
    for lam in [*np.linspace(0, 30, 11), *inside]:
        picked = best_of(pool, float(lam), reward)
        if math.isfinite(picked.question_logprob):
            ours = found[pool.index(picked)].at(lam)
            assert found[winner(path, lam)].at(lam) == pytest.approx(ours, abs=1e-9)


def test_records_rank_as_the_candidates_they_were_made_of():
    rng = np.random.default_rng(4)
    ends: list[Finish] = ["eos", "eos", "length", "eos", "length", "eos"]
    pool = [
        Candidate(tuple(range(n)), -rng.exponential(2, (2, n)), end)
        for n, end in zip((3, 7, 9, 2, 9, 4), ends, strict=True)
    ]
    stored = [
        Kept(
            len(candidate.tokens),
            candidate.finished,
            *map(float, (candidate.logprobs[0].sum(), gain.sum())),
        )
        for candidate in pool
        for gain in [candidate.logprobs[1] - candidate.logprobs[0]]
    ]
    for reward in (
        Reward(reduction=r, cut_off=c)
        for r in ("sum", "mean", "centred")
        for c in ("last", "as-is")
    ):
        for lam in (0.0, 1.0, 20.0):
            drawn = [line.at(lam) for line in lines(pool, (1.0,), reward)]
            score = Score(lambda _, found=drawn: found, reward.cut_off)
            assert stored[pool.index(best(pool, score))] is best_of(stored, lam, reward)


@pytest.mark.parametrize(("rule", "first"), [("last", 2), ("as-is", 1)])
def test_a_step_goes_on_with_a_child_cut_off_by_its_budget_only_if_the_rule_lets_it_win(
    rule: CutOff, first: int
):
    ends: list[Finish] = ["step", "length", "eos"]
    children = [Candidate((i,), np.full((2, 1), -1.0), end) for i, end in enumerate(ends)]
    score = Score(lambda pool: [1.0, 9.0, 5.0], rule)
    assert best(children, score) is children[first]
    assert rank(children, score)[0] is children[first]


def test_a_response_without_scored_tokens_is_never_picked_before_one_with():
    pool = [Kept(0, True, 0.0, 0.0), Kept(3, True, -50.0, 0.0)]
    for reduction in ("sum", "mean", "centred"):
        assert best_of(pool, 1.0, Reward(reduction=reduction)) is pool[1]
    assert reduced([Sums(0.0, 0.0, 0)], Reward()) == [IMPOSSIBLE]
