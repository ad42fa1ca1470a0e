"""The score algebra: what must hold of S whatever the model says."""

from __future__ import annotations

import math

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput, EngineError
from preftilt.reward import IMPOSSIBLE, Line, Reward, line, score, token_gains
from preftilt.types import Candidate, Finish, Query, View

logprob = st.floats(-30, 0)
lambdas = st.floats(-50, 100)
gammas = st.floats(0.05, 1)


def candidate(q: list[float], p: list[float], finish: Finish = "eos") -> Candidate:
    return Candidate(tuple(range(len(q))), np.array([q, p], dtype=float).reshape(2, -1), finish)


def query(lam: float) -> Query:
    views = (View("question", (1,), 1 - lam), View("full", (2,), lam))
    return Query(prompt=(2,), views=views, lam=lam, ratios=(1.0,))


rows = st.lists(st.tuples(logprob, logprob), min_size=1, max_size=12).map(
    lambda pairs: ([q for q, _ in pairs], [p for _, p in pairs])
)


@given(rows, lambdas, gammas)
def test_the_score_is_the_paper_s_equation_10(row, lam, gamma):
    q, p = row
    by_hand = sum(
        gamma**t * ((1 - lam) * qt + lam * pt) for t, (qt, pt) in enumerate(zip(q, p, strict=True))
    )
    assert score(candidate(q, p), query(lam), Reward(gamma=gamma)) == pytest.approx(
        by_hand, abs=1e-8
    )


@given(rows, gammas)
def test_lambda_one_is_the_full_prompt_and_lambda_zero_the_question(row, gamma):
    q, p = row
    weights = gamma ** np.arange(len(q))
    reward = Reward(gamma=gamma)
    assert score(candidate(q, p), query(1), reward) == pytest.approx(weights @ p, abs=1e-9)
    assert score(candidate(q, p), query(0), reward) == pytest.approx(weights @ q, abs=1e-9)


@given(rows, lambdas, lambdas)
def test_identical_views_score_the_same_for_every_lambda_exactly(row, one, other):
    same = candidate(row[0], row[0])
    assert score(same, query(one), Reward()) == score(same, query(other), Reward())
    assert line(same, (1.0,), Reward()).preference_gain == 0.0


@given(rows, lambdas)
def test_swapping_the_views_mirrors_lambda(row, lam):
    q, p = row
    swapped = score(candidate(p, q), query(1 - lam), Reward())
    assert score(candidate(q, p), query(lam), Reward()) == pytest.approx(swapped, abs=1e-7)


@given(rows, lambdas, st.floats(0, 1))
def test_the_score_is_linear_in_lambda(row, lam, share):
    q, p = row
    one, reward = candidate(q, p), Reward()
    between = score(one, query(share * lam), reward)
    ends = (1 - share) * score(one, query(0), reward) + share * score(one, query(lam), reward)
    assert between == pytest.approx(ends, abs=1e-7)


@given(rows, st.integers(0, 12), lambdas, gammas)
def test_scores_add_up_over_a_split(row, cut, lam, gamma):
    q, p = row
    cut = min(cut, len(q))
    reward = Reward(gamma=gamma)

    def total(q: list[float], p: list[float]) -> float:
        return score(candidate(q, p), query(lam), reward) if q else 0.0

    parts = total(q[:cut], p[:cut]) + gamma**cut * total(q[cut:], p[cut:])
    assert total(q, p) == pytest.approx(parts, abs=1e-7)


@given(rows, lambdas, gammas)
def test_the_mean_times_the_length_is_the_sum(row, lam, gamma):
    one = candidate(*row)
    total = score(one, query(lam), Reward(gamma=gamma))
    mean = score(one, query(lam), Reward(gamma=gamma, reduction="mean"))
    assert mean * len(one.tokens) == pytest.approx(total, abs=1e-7)


@given(rows)
def test_without_its_eos_a_response_scores_one_token_less(row):
    q, p = row
    finished, cut = candidate([*q, -1.0], [*p, -2.0]), candidate(q, p, "length")
    without = Reward(eos="exclude")
    assert score(finished, query(3), without) == score(cut, query(3), Reward())
    assert score(cut, query(3), without) == score(cut, query(3), Reward())


def test_several_preferences_add_their_weighted_gains():
    logprobs = np.array([[-1.0, -2.0], [-0.5, -2.5], [-3.0, -1.0]])
    strengths = (4.0, -2.0)
    one = Candidate((5, 0), logprobs, "eos")
    by_hand = logprobs[0].sum() + sum(
        strength * (view - logprobs[0]).sum()
        for strength, view in zip(strengths, logprobs[1:], strict=True)
    )
    ratios = (1.0, -0.5)
    assert line(one, ratios, Reward()).at(4.0) == pytest.approx(by_hand)
    assert token_gains(logprobs, ratios).sum() == pytest.approx(
        line(one, ratios, Reward()).preference_gain
    )


def test_a_one_token_response_s_scores_are_the_guided_policy_s_logits():
    rng = np.random.default_rng(0)
    q, p = (x - np.logaddexp.reduce(x) for x in rng.standard_normal((2, 12)))
    lam = 7.5
    scores = np.array([score(candidate([q[v]], [p[v]]), query(lam), Reward()) for v in range(12)])
    guided = q + lam * (p - q)
    np.testing.assert_allclose(
        np.exp(scores) / np.exp(scores).sum(), np.exp(guided) / np.exp(guided).sum(), rtol=1e-10
    )


@pytest.mark.parametrize("impossible", [[-math.inf, -1.0], [-1.0, -math.inf]])
def test_a_token_impossible_under_a_view_never_wins(impossible):
    one = candidate([impossible[0], -1.0], [impossible[1], -1.0])
    assert line(one, (1.0,), Reward()) is IMPOSSIBLE
    assert score(one, query(20), Reward()) == -math.inf


def test_an_empty_response_loses_to_every_other():
    empty = candidate([], [])
    only_eos = candidate([-3.0], [-3.0])
    assert score(empty, query(1), Reward()) == -math.inf
    assert score(only_eos, query(1), Reward()) == -3.0
    assert score(only_eos, query(1), Reward(eos="exclude")) == -math.inf
    assert score(empty, query(1), Reward(reduction="mean")) == -math.inf


@pytest.mark.parametrize("broken", [math.nan, 0.5])
def test_an_engine_that_returns_nonsense_is_reported(broken):
    with pytest.raises(EngineError, match="NaN or above 0"):
        score(candidate([broken], [-1.0]), query(1), Reward())


@pytest.mark.parametrize(
    "wrong",
    [{"gamma": 0.0}, {"gamma": 1.5}, {"gamma": math.nan}, {"reduction": "max"}, {"eos": "no"}],
)
def test_settings_out_of_range_are_refused(wrong, monkeypatch):
    """Also in a program without the type checker of these tests, which would see a wrong word first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadInput):
        Reward(**wrong)


def test_a_line_is_evaluated_at_lambda():
    assert Line(-2.0, 0.5).at(4.0) == 0.0
