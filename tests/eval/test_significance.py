"""Paired tests against their definitions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from preftilt.eval.stats import compare, mcnemar, paired_bootstrap


def test_mcnemar_counts_the_ways_a_coin_falls_as_unevenly():
    better, worse = 7, 2
    values = np.array([1.0] * better + [0.0] * worse + [1.0, 0.0])
    reference = np.array([0.0] * better + [1.0] * worse + [1.0, 0.0])
    as_uneven = [
        tosses for tosses in product((0, 1), repeat=9) if abs(2 * sum(tosses) - 9) >= better - worse
    ]
    assert mcnemar(values, reference) == pytest.approx(len(as_uneven) / 2**9)
    assert mcnemar(reference, values) == mcnemar(values, reference)


def test_methods_that_agree_on_every_item_do_not_differ():
    same = np.array([1.0, 0.0, 1.0])
    found = compare(same, same)
    assert found is not None
    assert (found.p, found.test, found.difference.mean) == (1.0, "McNemar", 0.0)
    graded = np.array([0.2, 0.4, 0.8])
    found = compare(graded, graded)
    assert found is not None
    assert (found.p, found.test) == (1.0, "bootstrap")


def test_the_bootstrap_s_p_is_near_the_normal_one_for_many_items():
    rng = np.random.default_rng(0)
    differences = rng.standard_normal(400)
    differences += 1.96 / 20 - differences.mean()  # 1.96 standard errors from 0
    assert paired_bootstrap(differences / differences.std()) == pytest.approx(0.05, abs=0.01)


def test_items_without_a_value_are_left_out_of_both():
    nan = float("nan")
    found = compare(np.array([1.0, nan, 0.0, 1.0]), np.array([0.0, 1.0, nan, 1.0]))
    assert found is not None
    assert found.difference.n == 2
    assert found.difference.mean == 0.5
    assert compare(np.array([nan]), np.array([1.0])) is None


def test_a_few_items_that_agree_are_no_certainty():
    for items, least in ((2, 0.5), (3, 0.25), (5, 0.0625)):
        assert paired_bootstrap(np.linspace(0.2, 0.3, items)) == least
    assert paired_bootstrap(np.full(40, 0.2)) < 0.001
