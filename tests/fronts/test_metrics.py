"""Hypervolume and mean inner product: by hand, by their laws, and refused where they would mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from preftilt.errors import BadInput
from preftilt.eval.fronts import (
    RewardScale,
    bootstrapped,
    hypervolume,
    mean_inner_product,
    on_the_front,
)
from preftilt.eval.stats import weights

UNIT = RewardScale(
    objectives=("help", "brief"), low=(0.0, 0.0), high=(1.0, 1.0), reference=(0.0, 0.0)
)
POINTS = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.floats(0, 1))


def test_a_single_points_volume_is_the_product_of_its_gaps():
    frame = RewardScale(
        objectives=("a", "b", "c"), low=(0,) * 3, high=(1,) * 3, reference=(0.1, 0.2, 0.0)
    )
    assert hypervolume(np.array([[0.6, 0.7, 0.4]]), frame) == pytest.approx(0.5 * 0.5 * 0.4)


def test_two_points_by_hand():
    points = np.array([[0.8, 0.2], [0.3, 0.9], [0.3, 0.1]])
    assert hypervolume(points, UNIT) == pytest.approx(0.8 * 0.2 + 0.3 * 0.7)
    assert on_the_front(points).tolist() == [True, True, False]


@given(POINTS, POINTS)
def test_more_points_never_take_volume_away(points: np.ndarray, more: np.ndarray):
    both = np.concatenate([points, more])
    assert hypervolume(both, UNIT) >= hypervolume(points, UNIT) - 1e-12


@given(POINTS)
def test_dominated_points_add_nothing(points: np.ndarray):
    assert hypervolume(np.concatenate([points, points * 0.5]), UNIT) == pytest.approx(
        hypervolume(points, UNIT)
    )


@given(POINTS, st.floats(0, 1))
def test_the_inner_product_is_linear_in_rewards(points: np.ndarray, factor: float):
    shares = np.linspace(0, 1, len(points))
    alphas = np.stack([shares, 1 - shares], axis=1)
    one = mean_inner_product(points, alphas, UNIT)
    assert mean_inner_product(points * factor, alphas, UNIT) == pytest.approx(factor * one)


def test_units_are_the_frames():
    costs = RewardScale(objectives=("help", "safe"), low=(-5, -8), high=(10, 4), reference=(0, 0))
    assert costs.normalised(np.array([10.0, -2.0])).tolist() == [1.0, 0.5]
    assert hypervolume(np.array([[2.5, -2.0]]), costs) == pytest.approx(0.5 * 0.5)


def test_a_reference_that_does_not_bound_the_rewards_is_refused_by_name():
    high = RewardScale(objectives=("help", "brief"), low=(0, 0), high=(1, 1), reference=(0.0, 0.5))
    with pytest.raises(BadInput, match=r"does not bound the rewards: brief is as low as 0\.2"):
        hypervolume(np.array([[0.8, 0.2]]), high)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": ("a",), "low": (0,), "high": (1,), "reference": (0,)}, "at least two"),
        ({"reference": (0.0,)}, "as many coordinates|as many"),
        ({"high": (1.0, 0.0)}, "range of brief goes from 0 to 0"),
        ({"reference": (0.0, float("nan"))}, "finite"),
    ],
)
def test_frames_that_make_no_sense_are_refused(changes: dict, words: str):
    whole = {"objectives": ("help", "brief"), "low": (0, 0), "high": (1, 1), "reference": (0, 0)}
    with pytest.raises(BadInput, match=words):
        RewardScale(**(whole | changes))


def test_intervals_come_from_resampled_prompts():
    rng = np.random.default_rng(0)
    rewards = rng.uniform(0.2, 0.8, size=(3, 40, 2))
    alphas = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    volume, product = bootstrapped(rewards, alphas, UNIT, weights(40, 0)[:500])
    assert volume.low < volume.value < volume.high
    assert product.value == pytest.approx(mean_inner_product(rewards.mean(1), alphas, UNIT))
    same = np.repeat(rewards[:, :1], 40, axis=1)
    certain, _ = bootstrapped(same, alphas, UNIT, weights(40, 0)[:500])
    assert certain.low == pytest.approx(certain.high)
