"""What 16-bit models must do when they are opened: distributions agree, log-probs of what is never drawn need not."""

import torch

from preftilt.engines.transformers.probe import AGREE_ROUNDED, divergence, same

LIKELY, UNLIKELY = torch.tensor([[3.0, 2.0, 1.0]]), torch.full((1, 50), -9.0)
REFERENCE = torch.log_softmax(torch.cat([LIKELY, UNLIKELY], dim=1), dim=-1)


def test_half_a_nat_on_tokens_that_are_never_drawn_is_rounding():
    moved = REFERENCE + torch.cat([torch.zeros(1, 3), torch.full((1, 50), 0.5)], dim=1)
    assert same(moved, REFERENCE, torch.bfloat16)
    assert not same(moved, REFERENCE, torch.float32)


def test_the_same_on_a_likely_token_is_another_distribution():
    moved = REFERENCE.clone()
    moved[0, 1] += 0.5
    assert divergence(moved, REFERENCE) > AGREE_ROUNDED / 3
    moved[0, 1] += 0.5
    assert not same(moved, REFERENCE, torch.bfloat16)


def test_ids_that_do_not_exist_do_not_count():
    holed = REFERENCE.clone()
    holed[0, -1] = -torch.inf
    assert divergence(holed, torch.log_softmax(holed, dim=-1)) < 1e-6
