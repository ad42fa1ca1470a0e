"""The losses: numbers worked out by hand, gradients by finite differences, and what swapping labels does."""

from __future__ import annotations

import math

import pytest
import torch

from preftilt.train.losses import bradley_terry, global_loss, weighted_loss

pytestmark = pytest.mark.model

MARGINS = torch.tensor([2.0, -1.0], dtype=torch.float64)
SIGNS = torch.tensor([[1.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
ALPHAS = torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=torch.float64)
BETAS = torch.tensor([0.5, 0.1], dtype=torch.float64)
COUNTS = SIGNS.abs().sum(dim=0)


def minus_log_sigmoid(z: float) -> float:
    return math.log(1 + math.exp(-z))


def test_bradley_terry_is_minus_log_sigmoid_of_the_signed_margin():
    told = bradley_terry(MARGINS, SIGNS, BETAS)
    by_hand = [
        [minus_log_sigmoid(0.5 * 2), minus_log_sigmoid(-0.1 * 2)],
        [minus_log_sigmoid(-0.5 * 1), 0.0],
    ]
    torch.testing.assert_close(told, torch.tensor(by_hand, dtype=torch.float64))


def test_swapping_the_labels_gives_minus_log_sigmoid_of_minus_z():
    there, back = bradley_terry(MARGINS, SIGNS, BETAS), bradley_terry(MARGINS, -SIGNS, BETAS)
    z = BETAS * SIGNS * MARGINS[:, None]
    torch.testing.assert_close((there - back)[SIGNS != 0], -z[SIGNS != 0])
    torch.testing.assert_close(back, bradley_terry(-MARGINS, SIGNS, BETAS))


def test_an_infinite_margin_on_the_right_side_costs_nothing():
    told = bradley_terry(torch.tensor([1e6, -1e6]), torch.tensor([[1.0], [-1.0]]), torch.ones(1))
    assert told.tolist() == [[0.0], [0.0]]


def test_the_weighted_loss_averages_each_objective_over_the_pairs_it_judged():
    first = (minus_log_sigmoid(1.0) + minus_log_sigmoid(-0.5)) / 2
    second = minus_log_sigmoid(-0.2)
    told = weighted_loss(MARGINS, SIGNS, ALPHAS, BETAS, COUNTS)
    assert told.item() == pytest.approx(0.25 * first + 0.75 * second, rel=1e-12)


def test_the_losses_of_a_batch_s_parts_add_up_to_the_batch_s():
    whole = weighted_loss(MARGINS, SIGNS, ALPHAS, BETAS, COUNTS)
    parts = [
        weighted_loss(MARGINS[i : i + 1], SIGNS[i : i + 1], ALPHAS[i : i + 1], BETAS, COUNTS)
        for i in (0, 1)
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    second = global_loss("soft-label", MARGINS, SIGNS, ALPHAS, BETAS, 2)
    halves = [
        global_loss("soft-label", MARGINS[i : i + 1], SIGNS[i : i + 1], ALPHAS[i : i + 1], BETAS, 2)
        for i in (0, 1)
    ]
    torch.testing.assert_close(halves[0] + halves[1], second)


def test_one_objective_is_genarm_s_loss():
    told = weighted_loss(
        MARGINS,
        torch.ones(2, 1).double(),
        torch.ones(2, 1).double(),
        BETAS[:1],
        torch.tensor([2.0]),
    )
    assert told.item() == pytest.approx((minus_log_sigmoid(1) + minus_log_sigmoid(-0.5)) / 2)


def soft(p: float, z: float) -> float:
    return p * minus_log_sigmoid(z) + (1 - p) * minus_log_sigmoid(-z)


@pytest.mark.parametrize(
    ("kind", "by_hand"),
    [
        # Pair 0: label .25, beta .25 · .5 + .75 · .1 = .2. Pair 1: only objective 0 speaks: label 1, beta .5.
        ("soft-label", (soft(0.25, 0.2 * 2) + soft(1.0, -0.5)) / 2),
        ("hard-label", (soft(0.0, 0.2 * 2) + soft(1.0, -0.5)) / 2),
        # Pair 0: .25 · .5 · 2 − .75 · .1 · 2 = .1.
        ("mixed-margin", (minus_log_sigmoid(0.1) + minus_log_sigmoid(-0.5)) / 2),
    ],
)
def test_the_global_loss_is_what_it_says(kind, by_hand):
    told = global_loss(kind, MARGINS, SIGNS, ALPHAS, BETAS, 2)
    assert told.item() == pytest.approx(by_hand, rel=1e-12)


def test_pairs_that_nobody_judged_add_nothing():
    none = torch.zeros_like(SIGNS)
    assert global_loss("soft-label", MARGINS, none, ALPHAS, BETAS, 2).item() == 0
    assert weighted_loss(MARGINS, none, ALPHAS, BETAS, none.sum(dim=0)).item() == 0


@pytest.mark.parametrize("kind", ["soft-label", "hard-label", "mixed-margin", None])
def test_gradients_are_those_of_finite_differences(kind):
    def loss(margins: torch.Tensor) -> torch.Tensor:
        if kind is None:
            return weighted_loss(margins, SIGNS, ALPHAS, BETAS, COUNTS)
        return global_loss(kind, margins, SIGNS, ALPHAS, BETAS, 2)

    assert torch.autograd.gradcheck(loss, (MARGINS.clone().requires_grad_(),))
