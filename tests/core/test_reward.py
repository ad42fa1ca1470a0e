"""The score algebra: what must hold of S whatever the model says."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput, EngineError
from preftilt.reward import IMPOSSIBLE, Reward, ScoreLine, lines, scores, token_gains
from preftilt.types import ArmTerm, Candidate, Finish, Query, View

logprob = st.floats(-30, 0)
lambdas = st.floats(-50, 100)
gammas = st.floats(0.05, 1)


def candidate(q: list[float], p: list[float], finish: Finish = "eos") -> Candidate:
    return Candidate(tuple(range(len(q))), np.array([q, p], dtype=float).reshape(2, -1), finish)


def query(lam: float) -> Query:
    views = (View("question", (1,), 1 - lam), View("full", (2,), lam))
    return Query(prompt=(2,), views=views, lam=lam, ratios=(1.0,))


def score(response: Candidate, asked: Query, reward: Reward) -> float:
    """Of a response by itself."""
    [alone] = scores([response], asked, reward)
    return alone


def line(response: Candidate, ratios: tuple[float, ...], reward: Reward) -> ScoreLine:
    [alone] = lines([response], ratios, reward)
    return alone


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
    response, reward = candidate(q, p), Reward()
    between = score(response, query(share * lam), reward)
    ends = (1 - share) * score(response, query(0), reward) + share * score(
        response, query(lam), reward
    )
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
    response = candidate(*row)
    total = score(response, query(lam), Reward(gamma=gamma))
    mean = score(response, query(lam), Reward(gamma=gamma, reduction="mean"))
    assert mean * len(response.tokens) == pytest.approx(total, abs=1e-7)


@given(rows)
def test_without_its_eos_a_response_scores_one_token_less(row):
    q, p = row
    finished, cut = candidate([*q, -1.0], [*p, -2.0]), candidate(q, p, "length")
    without = Reward(eos="exclude")
    assert score(finished, query(3), without) == score(cut, query(3), Reward())
    assert score(cut, query(3), without) == score(cut, query(3), Reward())


@given(rows)
def test_a_response_that_ended_at_a_stop_string_has_no_eos_to_leave_out(row):
    q, p = row
    stopped = candidate(q, p, "stop_string")
    assert not stopped.cut_off
    assert score(stopped, query(3), Reward(eos="exclude")) == score(stopped, query(3), Reward())


def test_several_preferences_add_their_weighted_gains():
    logprobs = np.array([[-1.0, -2.0], [-0.5, -2.5], [-3.0, -1.0]])
    strengths = (4.0, -2.0)
    response = Candidate((5, 0), logprobs, "eos")
    by_hand = logprobs[0].sum() + sum(
        strength * (view - logprobs[0]).sum()
        for strength, view in zip(strengths, logprobs[1:], strict=True)
    )
    ratios = (1.0, -0.5)
    assert line(response, ratios, Reward()).at(4.0) == pytest.approx(by_hand)
    assert token_gains(logprobs, ratios).sum() == pytest.approx(
        line(response, ratios, Reward()).preference_gain
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
    response = candidate([impossible[0], -1.0], [impossible[1], -1.0])
    assert line(response, (1.0,), Reward()) is IMPOSSIBLE
    assert score(response, query(20), Reward()) == -math.inf


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
    [
        {"gamma": 0.0},
        {"gamma": 1.5},
        {"gamma": math.nan},
        {"reduction": "max"},
        {"eos": "no"},
        {"cut_off": "first"},
    ],
)
def test_settings_out_of_range_are_refused(wrong, monkeypatch):
    """Also in a program without the type checker of these tests, which would see a wrong word first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadInput):
        Reward(**wrong)


def test_a_line_is_evaluated_at_lambda():
    assert ScoreLine(-2.0, 0.5).at(4.0) == 0.0
    assert (ScoreLine(-2.0, 0.5).at(math.inf), ScoreLine(-2.0, 0.5).at(-math.inf)) == (0.5, -0.5)
    assert IMPOSSIBLE.at(math.inf) == -math.inf


# --- centred: a score of a pool -----------------------------------------------------

pools = st.lists(rows, min_size=1, max_size=8)
CENTRED = Reward(reduction="centred")


def pool_of(pairs: list[tuple[list[float], list[float]]]) -> list[Candidate]:
    return [candidate(q, p) for q, p in pairs]


@given(pools, lambdas, gammas)
def test_centred_is_the_sum_against_the_pool_s_mean_a_token_over_the_root_of_the_length(
    pairs, lam, gamma
):
    pool, reward = pool_of(pairs), Reward(reduction="centred", gamma=gamma)
    weights = [gamma ** np.arange(len(q)) for q, _ in pairs]
    totals = [
        sum(w * (qt + lam * (pt - qt)) for w, qt, pt in zip(weight, q, p, strict=True))
        for weight, (q, p) in zip(weights, pairs, strict=True)
    ]
    a_token = sum(totals) / sum(weight.sum() for weight in weights)
    by_hand = [
        (total - a_token * weight.sum()) / math.sqrt((weight**2).sum())
        for total, weight in zip(totals, weights, strict=True)
    ]
    assert scores(pool, query(lam), reward) == pytest.approx(by_hand, abs=1e-6)


@given(pools, lambdas, lambdas, st.floats(0, 1))
def test_a_centred_score_is_affine_in_lambda(pairs, one, other, share):
    pool = pool_of(pairs)
    between = np.array(scores(pool, query((1 - share) * one + share * other), CENTRED))
    ends = [np.array(scores(pool, query(lam), CENTRED)) for lam in (one, other)]
    np.testing.assert_allclose(between, (1 - share) * ends[0] + share * ends[1], atol=1e-7)


@given(pools, lambdas, gammas, st.floats(0, 9), st.floats(0, 9))
def test_a_constant_a_token_in_any_view_changes_no_centred_score(pairs, lam, gamma, less_q, less_p):
    shifted = [([x - less_q for x in q], [x - less_p for x in p]) for q, p in pairs]
    reward = Reward(reduction="centred", gamma=gamma)
    before, after = (scores(pool_of(each), query(lam), reward) for each in (pairs, shifted))
    assert after == pytest.approx(before, abs=1e-6)


@given(pools, lambdas, gammas)
def test_centred_scores_times_the_root_of_their_lengths_add_up_to_nothing(pairs, lam, gamma):
    values = scores(pool_of(pairs), query(lam), Reward(reduction="centred", gamma=gamma))
    roots = [math.sqrt((gamma ** (2 * np.arange(len(q)))).sum()) for q, _ in pairs]
    assert sum(map(math.prod, zip(roots, values, strict=True))) == pytest.approx(0, abs=1e-6)


@given(pools, lambdas, st.randoms(use_true_random=False))
def test_the_order_of_a_pool_changes_no_centred_score(pairs, lam, random):
    order = random.sample(range(len(pairs)), len(pairs))
    values = scores(pool_of(pairs), query(lam), CENTRED)
    shuffled = scores(pool_of([pairs[i] for i in order]), query(lam), CENTRED)
    assert shuffled == [values[i] for i in order]


@given(
    st.lists(st.lists(st.integers(-64, 0), min_size=4, max_size=4), min_size=1, max_size=8),
    st.integers(-4, 20),
)
def test_responses_of_one_length_rank_by_centred_as_by_the_sum(tokens, lam):
    pool = [candidate([x / 8 for x in row[:2]], [x / 8 for x in row[2:]]) for row in tokens]
    summed, centred = (scores(pool, query(lam), each) for each in (Reward(), CENTRED))
    for i, j in itertools.permutations(range(len(pool)), 2):
        assert centred[i] > centred[j] or summed[i] <= summed[j]


@given(pools, st.integers(0, 8), lambdas)
def test_what_cannot_win_is_no_part_of_the_means(pairs, at, lam):
    alone = scores(pool_of(pairs), query(lam), CENTRED)
    at = min(at, len(pairs))
    for hopeless in (candidate([-math.inf, -9.0], [-1.0, -9.0]), candidate([], [])):
        pool = pool_of(pairs)
        pool.insert(at, hopeless)
        values = scores(pool, query(lam), CENTRED)
        assert values.pop(at) == -math.inf
        assert values == alone
    assert scores([candidate([], [])], query(lam), CENTRED) == [-math.inf]


@given(rows, lambdas, gammas)
def test_a_pool_of_one_scores_nothing(row, lam, gamma):
    assert scores(pool_of([row]), query(lam), Reward(reduction="centred", gamma=gamma)) == [0.0]


def test_centred_scores_leave_out_the_eos_that_is_not_scored():
    pool = [candidate([-1.0, -9.0], [-2.0, -9.0]), candidate([-3.0, -1.0], [-1.0, -1.0], "length")]
    bare = [candidate([-1.0], [-2.0], "length"), pool[1]]
    without = Reward(reduction="centred", eos="exclude")
    assert scores(pool, query(3), without) == scores(bare, query(3), without)


def test_reward_models_are_centred_like_the_rest():
    logprobs = np.array([[-1.0, -2.0, -1.5], [-0.5, -2.5, -1.0], [-3.0, -1.0, -6.0]])
    pool = [Candidate((1, 2), logprobs[:, :2], "eos"), Candidate((1, 2, 3), logprobs, "eos")]
    shifted = [
        replace(candidate, logprobs=candidate.logprobs - np.array([[0.0], [0.0], [5.0]]))
        for candidate in pool
    ]
    for term in (ArmTerm(0.7, 0.0), ArmTerm(0.0, 0.3)):
        measured = [lines(each, (1.0,), CENTRED, (term,)) for each in (pool, shifted)]
        for ours, theirs in zip(*measured, strict=True):
            assert ours.at(4.0) == pytest.approx(theirs.at(4.0))
        assert measured[0] != lines(pool, (1.0,), CENTRED, (ArmTerm(0.0, 0.0),))
