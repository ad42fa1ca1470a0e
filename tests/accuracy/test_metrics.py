"""Accuracies and Kendall's τ: laws, and numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftilt.errors import BadInput
from preftilt.eval.stats import (
    PairRanking,
    mean_interval,
    rank,
    ratio_interval,
    tau_b,
    tau_interval,
    top_one,
    top_one_interval,
)

NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.just(-math.inf))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30)


def ranked(pairs, users=None) -> PairRanking:
    return rank(pairs, users or {"all": range(len(pairs))})


def test_hits_ties_and_missing_scores_are_counted():
    found = ranked([(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (None, 1.0), (-math.inf, -math.inf)])
    assert found.accuracy == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert (found.ties, found.unscored) == (2, 1)
    assert found.margin == 0.0


@given(PAIRS)
def test_swapping_the_sides_gives_one_less_the_accuracy(pairs):
    swapped = [(other, one) for one, other in pairs]
    assert ranked(swapped).accuracy == pytest.approx(1 - ranked(pairs).accuracy)


@given(PAIRS)
def test_a_rising_function_of_the_score_changes_nothing(pairs):
    bent = [tuple(math.atan(one) ** 3 + one for one in pair) for pair in pairs]
    assert ranked(bent).accuracy == ranked(pairs).accuracy


@given(PAIRS)
def test_falling_is_swapping(pairs):
    turned = [tuple(-one for one in pair) for pair in pairs]
    assert ranked(turned).accuracy == pytest.approx(1 - ranked(pairs).accuracy)


def test_several_dispreferred_responses_are_several_pairs():
    found = ranked([(1.0, 0.0, 2.0, 1.0)])
    assert (found.accuracy, float(found.pairs.sum())) == (0.5, 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3, 1, 2, 0], 1.0), ([1, 3, 2, 0], 0.0), ([3, 3, 1, 0], 0.5), ([2, 2, 2, 2], 0.25)],
)
def test_top_one_shares_ties(values, expected):
    assert top_one(values) == expected


def test_top_one_is_of_comparisons_with_several_responses_only():
    users = {"a": [0, 1], "b": [2]}
    found = top_one_interval([(3.0, 1.0, 2.0), (1.0, 0.0), (0.0, 1.0, 0.5)], users)
    assert found is not None
    assert (found.mean, found.n) == (0.5, 2)
    assert top_one_interval([(1.0, 0.0)], {"a": [0]}) is None


def test_the_interval_resamples_users_and_not_pairs():
    """Users who are always right or always wrong: with ten times the pairs, chance is as large as before."""
    users = np.repeat([0.0, 1.0], 20)
    alone = ratio_interval(users, np.ones(40))
    many = ratio_interval(users * 10, np.full(40, 10.0))
    assert (many.low, many.high, many.mean) == pytest.approx((alone.low, alone.high, alone.mean))
    assert (alone.low, alone.high) == (mean_interval(users).low, mean_interval(users).high)
    assert many.n == 400


def test_users_with_more_pairs_count_for_more():
    assert ratio_interval(np.array([9.0, 0.0]), np.array([9.0, 1.0])).mean == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("totals", "counts"), [([], []), ([1.0], [0.0]), ([math.nan], [1.0])], ids=str
)
def test_no_groups_have_no_interval(totals, counts):
    with pytest.raises(ValueError, match="at least one group"):
        ratio_interval(np.array(totals), np.array(counts))


def tau(x, y) -> float:
    return float(tau_b(np.array(x, dtype=float), np.array(y, dtype=float)))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=8, unique=True))
def test_tau_of_a_thing_with_itself_is_one(x):
    assert tau(x, x) == pytest.approx(1.0)
    assert tau(x, [-one for one in x]) == pytest.approx(-1.0)


@settings(deadline=None)  # The first call imports scipy.
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=9))
def test_tau_b_is_scipy_s(pairs):
    from scipy.stats import kendalltau

    x, y = zip(*pairs, strict=True)
    expected = float("nan")
    if len(set(x)) > 1 and len(set(y)) > 1:
        expected = float(kendalltau(x, y, variant="b")[0])  # pyright: ignore
    assert tau(x, y) == pytest.approx(expected, nan_ok=True)


def test_tau_b_corrects_for_ties():
    """C = 4, D = 1, one tie in x, none in y: (4 − 1) / √(5 · 6)."""
    assert tau([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx(3 / math.sqrt(5 * 6))


def test_tau_of_two_methods_is_refused():
    with pytest.raises(BadInput, match="at least 3 methods, not 2"):
        tau([1, 2], [1, 2])


def _side(*accuracies: float, users: int = 30) -> list[PairRanking]:
    """Methods that are right for the first users, as many as their accuracy says."""
    ones = np.ones(users)
    return [
        PairRanking((np.arange(users) < a * users).astype(float), ones, 0, 0, None)
        for a in accuracies
    ]


def test_tau_over_users_of_the_same_methods_is_surely_one():
    side = _side(0.2, 0.5, 0.9)
    found = tau_interval(side, side)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.methods == 3


def test_resamples_where_all_methods_are_alike_are_counted():
    rewards, policies = _side(0.0, 0.5, 1.0, users=2), _side(0.5, 0.5, 0.0, users=2)
    found = tau_interval(rewards, policies)
    assert 0 < found.undefined < 10_000
