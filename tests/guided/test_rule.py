"""The rule of guided decoding in numpy: combining views, masks, Amulet's number. No model, no torch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preftilt.errors import BadInput, EngineError
from preftilt.guided import (
    adapted,
    combine,
    divergence,
    filtered,
    kappa,
    masked,
    pick,
    plausible,
    view_weights,
)
from preftilt.search import ARGS, CFG, PRESETS, Amulet, LinearAlignment
from preftilt.testing.amulet import amulet_iterations
from preftilt.types import Guide, Mask, Sampling


def views(number: int, vocabulary: int = 50, seed: int = 0) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).standard_normal((number, vocabulary))
    return logits - np.logaddexp.reduce(logits, axis=1)[:, None]


def test_two_views_give_the_softmax_of_q_plus_lambda_times_the_difference():
    q, p = views(2)
    guided = combine(np.stack([q, p]), (-1.5, 2.5))
    expected = np.exp(q + 2.5 * (p - q))
    np.testing.assert_allclose(np.exp(guided), expected / expected.sum(), rtol=1e-12)


def test_weights_need_not_add_up_to_one():
    base, first, second = views(3)
    guided = combine(np.stack([base, first, second]), (1.0, 0.5, 2.0))
    expected = np.exp(base + 0.5 * first + 2 * second)
    np.testing.assert_allclose(np.exp(guided), expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 1.0, 5.6487, -3.0, 50.0])
def test_identical_views_give_their_own_distribution_back(lam: float):
    [p] = views(1)
    np.testing.assert_allclose(combine(np.stack([p, p]), (1 - lam, lam)), p, rtol=0, atol=1e-12)


def test_what_a_view_adds_to_all_its_logprobs_changes_nothing():
    both = views(2)
    shifted = both + np.array([[3.0], [-7.0]])
    np.testing.assert_allclose(combine(shifted, (-2, 3)), combine(both, (-2, 3)), atol=1e-12)


@pytest.mark.parametrize("weights", [(-2.0, 3.0), (3.0, -2.0), (1.0, 1.0)])
def test_a_token_that_one_view_holds_impossible_is_impossible(weights: tuple[float, float]):
    both = views(2)
    both[0, 3] = both[1, 4] = both[0, 5] = both[1, 5] = -np.inf
    guided = combine(both, weights)
    assert np.flatnonzero(np.isneginf(guided)).tolist() == [3, 4, 5]
    assert np.exp(guided).sum() == pytest.approx(1)


def test_views_without_a_common_token_are_refused():
    both = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    with pytest.raises(EngineError, match="no token is possible"):
        combine(both, (0.5, 0.5))


@pytest.mark.parametrize(
    ("ratios", "lam", "expected"),
    [
        ((1.0,), 20.0, (-2.0, 3.0)),
        ((1.0,), -2.0, (4.0, -3.0)),
        ((1.0,), 0.0, (1.0, 0.0)),
        ((1.0, 0.5), 10.0, (-3.5, 3.0, 1.5)),
        ((1.0, -0.5), 4.0, (-0.5, 3.0, -1.5)),
    ],
)
def test_the_strongest_preference_gets_a_search_s_strength_and_the_others_their_share(
    ratios: tuple[float, ...], lam: float, expected: tuple[float, ...]
):
    assert view_weights(ratios, lam, 3.0) == pytest.approx(expected)


def test_the_divergence_is_jensen_and_shannon_s_in_bits():
    p, q = views(2)
    middle = (np.exp(p) + np.exp(q)) / 2
    entropies = [-float(np.exp(view) @ view) / np.log(2) for view in (p, q)]
    expected = -float(middle @ np.log2(middle)) - sum(entropies) / 2
    assert divergence(p, q) == pytest.approx(expected) == pytest.approx(divergence(q, p))
    first, second = np.full(4, -np.inf), np.full(4, -np.inf)
    first[:2], second[2:] = np.log(0.5), np.log([0.25, 0.75])
    assert divergence(first, second) == 1.0


@pytest.mark.parametrize("lam", [5.0, 0.0, -3.0])
def test_a_strength_by_divergence_is_one_where_the_views_agree_and_lambda_where_they_share_nothing(
    lam: float,
):
    p, q, arm = views(3)
    assert adapted(np.stack([p, p, arm]), (1 - lam, lam, 0.5)) == pytest.approx((0, 1, 0.5))
    half = np.full(50, -np.inf), np.full(50, -np.inf)
    half[0][:25], half[1][25:] = (np.log(1 / 25),) * 2
    assert adapted(np.stack(half), (1 - lam, lam)) == pytest.approx((1 - lam, lam))
    between = adapted(np.stack([q, p]), (1 - lam, lam))[1]
    assert between == pytest.approx(1 + (lam - 1) * divergence(p, q))


def test_amulets_number_is_the_published_one_for_the_published_defaults():
    assert kappa(60, alpha=2, anchor=2, eta=10) == pytest.approx(4.648699, abs=1e-6)


def test_one_iteration_of_amulet_has_the_textbook_value():
    assert kappa(1, alpha=2, anchor=2, eta=10) == pytest.approx(2 / (2 + 1 / 10))


def test_amulet_without_utility_or_iterations_is_the_model_as_it_is():
    assert kappa(60, alpha=0, anchor=2, eta=10) == 0
    assert kappa(0, alpha=2, anchor=2, eta=10) == 0
    assert Amulet(alpha=0).guide == Guide(strength=1.0)


def test_amulet_tends_to_its_fixed_point_where_it_has_one():
    assert kappa(20000, alpha=1, anchor=2, eta=10) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 60, "alpha": 2.0, "anchor": 2.0, "eta": 10.0},
        {"iterations": 1, "alpha": 2.0, "anchor": 2.0, "eta": 10.0},
        {"iterations": 7, "alpha": 0.5, "anchor": 3.0, "eta": 0.3},
        {"iterations": 25, "alpha": 4.0, "anchor": 1.0, "eta": 100.0},
    ],
    ids=str,
)
def test_the_closed_form_is_the_literal_game(settings: dict):
    base, preferred = views(2, vocabulary=2000)
    literal = amulet_iterations(preferred, base, **settings)
    k = kappa(
        settings["iterations"],
        alpha=settings["alpha"],
        anchor=settings["anchor"],
        eta=settings["eta"],
    )
    np.testing.assert_allclose(
        combine(np.stack([base, preferred]), (-k, 1 + k)), literal, atol=1e-9
    )


def test_amulet_is_linear_alignment_with_its_number_as_the_ratio():
    k = kappa(60, alpha=2, anchor=2, eta=10)
    assert Amulet().guide == LinearAlignment(ratio=k).guide


def test_without_a_strength_of_the_search_the_weights_are_those_of_the_score():
    assert view_weights((1.0, -0.5), 4.0) == pytest.approx((-1.0, 4.0, -2.0))
    assert view_weights((1.0,), -2.0) == (3.0, -2.0)
    assert CFG().guide == Guide(strength=None)


def test_linear_alignment_has_a_lambda_one_more_than_its_ratio():
    assert LinearAlignment(ratio=2).guide == Guide(strength=3.0)


def test_a_mask_keeps_the_nucleus_of_the_tempered_preference_distribution():
    """Against the definition in ten lines: sort, add up, cut."""
    q, p = views(2)
    mask = Mask(top_p=0.8, temperature=0.7)
    tempered = np.exp(p / 0.7) / np.exp(p / 0.7).sum()
    order = np.argsort(-tempered)
    size = int(np.searchsorted(np.cumsum(tempered[order]), 0.8)) + 1
    inside = set(order[:size].tolist())
    assert set(np.flatnonzero(plausible(p, mask)).tolist()) == inside
    guided = combine(np.stack([q, p]), (-2, 3))
    assert set(np.flatnonzero(np.isfinite(masked(guided, p, mask))).tolist()) == inside


def test_a_mask_of_the_result_is_top_p_after_guiding():
    q, p = views(2)
    guided = combine(np.stack([q, p]), (-2, 3))
    kept = np.isfinite(masked(guided, p, Mask(top_p=0.6, of="result")))
    assert np.array_equal(kept, np.isfinite(filtered(guided, Sampling(top_p=0.6))))


def test_a_mask_of_the_result_changes_nothing_for_the_argmax():
    q, p = views(2)
    guided = combine(np.stack([q, p]), (-2, 3))
    greedy = Sampling(temperature=0)
    assert pick(masked(guided, p, Mask(top_p=0.95, of="result")), greedy, 0) == guided.argmax()


def test_the_author_s_preset_masks_at_its_own_temperature_and_samples():
    preset = PRESETS["la-author"]
    assert preset.search.guide == Guide(strength=3.0, mask=Mask(top_p=0.8, temperature=0.7))
    assert preset.sampling == Sampling(temperature=0.7)


@pytest.mark.parametrize("name", ["la-amulet-repo", "amulet-default"])
def test_what_is_compared_with_in_papers_is_greedy_and_has_no_mask(name: str):
    assert PRESETS[name].sampling.temperature == 0
    assert PRESETS[name].search.guide.mask is None


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: CFG(n=0), "n of .* at least 1"),
        (lambda: CFG(mask_from="result"), "without mask_top_p"),
        (lambda: CFG(mask_top_p=0.0), "mask_top_p"),
        (lambda: LinearAlignment(ratio=math.inf), "ratio of .* finite"),
        (lambda: LinearAlignment(mask_top_p=0.8, mask_temperature=0.0), "mask_temperature"),
        (lambda: Amulet(eta=0.0), "eta of .* above 0"),
        (lambda: Amulet(iterations=-1), "iterations"),
        (lambda: ARGS(shortlist=0), "shortlist"),
        (lambda: ARGS(weight=math.nan), "weight of .* finite"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, words: str):
    with pytest.raises(BadInput, match=words):
        build()
