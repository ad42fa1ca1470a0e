"""Losses on pairs: Bradley–Terry for each objective, weighted by α, and UniARM's second term.

Shapes: P pairs, k objectives. Δ [P] is log π(y₀|x) − log π(y₁|x), nats, sums over whole responses with their end,
not divided by length (GenARM; PARM). ``signs`` [P, k] is +1 where objective i prefers response 0, −1 where it prefers
response 1, 0 where it has no verdict.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from preftilt.train.settings import GlobalLoss


def bradley_terry(margins: Tensor, signs: Tensor, betas: Tensor) -> Tensor:
    """−log σ(βᵢ sᵢ Δ) [P, k]; 0 where there is no verdict. ``betas`` [k]."""
    return softplus(-betas * signs * margins[:, None]) * signs.abs()


def weighted_loss(
    margins: Tensor, signs: Tensor, alphas: Tensor, betas: Tensor, counts: Tensor
) -> Tensor:
    """Σᵢ αᵢ · mean of objective i's Bradley–Terry loss over the pairs it has a verdict on.

    alphas [P, k]: one α for all pairs, or one for each. counts [k]: how many pairs of the whole batch have a verdict
    of i, so that the losses of a batch's parts add up to the batch's. With one objective, α = 1, it is GenARM's loss.
    """
    each = alphas * bradley_terry(margins, signs, betas)
    return (each.sum(dim=0) / counts.clamp(min=1)).sum()


def global_loss(
    kind: GlobalLoss, margins: Tensor, signs: Tensor, alphas: Tensor, betas: Tensor, pairs: int
) -> Tensor:
    """The second term of the reconstruction of UniARM: all objectives at once; a sum over P, divided by ``pairs``.

    soft-label: Bradley–Terry with the label p = Σ αᵢ [objective i prefers response 0] and β = Σ αᵢ βᵢ.
    hard-label: the same with p rounded (½ stays). mixed-margin: −log σ(Σ αᵢ βᵢ sᵢ Δ).
    Objectives without a verdict on a pair leave their weight to the others; pairs without any add nothing.
    """
    shares = alphas * signs.abs()
    total = shares.sum(dim=1)
    shares = shares / total.clamp(min=1e-12)[:, None]
    has_verdict = total > 0
    if kind == "mixed-margin":
        each = softplus(-(shares * betas * signs).sum(dim=1) * margins)
    else:
        label = (shares * (signs > 0)).sum(dim=1)
        if kind == "hard-label":
            label = torch.where(label == 0.5, label, label.round())
        strength = (shares * betas).sum(dim=1)
        each = binary_cross_entropy_with_logits(strength * margins, label, reduction="none")
    return (each * has_verdict).sum() / pairs
