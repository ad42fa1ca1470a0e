"""Intervals against what theory says of them."""

from __future__ import annotations

import numpy as np
import pytest

from preftilt.eval.stats import mean_interval


def test_the_interval_of_a_share_is_near_the_normal_one():
    values = np.repeat([0.0, 1.0], [120, 280])
    interval = mean_interval(values)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert interval.mean == pytest.approx(0.7)
    assert interval.low == pytest.approx(0.7 - half, abs=0.01)
    assert interval.high == pytest.approx(0.7 + half, abs=0.01)
    assert interval.n == 400


def test_a_constant_has_no_spread():
    assert mean_interval(np.ones(10)).low == 1.0


def test_covers_the_truth_about_ninety_five_times_in_a_hundred():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        interval = mean_interval(rng.random(80))
        hits += interval.low <= 0.5 <= interval.high
    assert 88 <= hits <= 100


@pytest.mark.parametrize("values", [[], [np.nan, 1.0]])
def test_nothing_and_nan_have_no_interval(values):
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval(np.array(values))
