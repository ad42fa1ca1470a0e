"""How the weights move: Muon for the matrices, AdamW for the rest, warm-up, plateau, decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tools.train_demo.network import Network


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training run.

    ``matrix_rate`` and ``other_rate`` are the highest learning rates. Four times as much makes
    attention saturate, and the model then never looks at a preference. ``drills`` is the part of
    the steps in which most answers under a preference are bare lists; ``decay`` the part in which the rates
    fall.
    """

    steps: int = 7000
    rows: int = 7
    length: int = 256
    matrix_rate: float = 1e-3
    other_rate: float = 2e-3
    weight_decay: float = 0.1
    warm_up: int = 100
    drills: float = 0.6
    decay: float = 0.4

    @property
    def tokens(self) -> int:
        """Tokens a step, padding included."""
        return self.rows * self.length


def make_optimizers(network: Network, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Two optimizers; each parameter group keeps its highest learning rate under ``peak``."""
    matrices = [
        weight
        for weight in network.parameters()
        if weight.ndim == 2 and weight is not network.embedding
    ]
    others = [weight for weight in network.parameters() if not any(weight is m for m in matrices)]
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.matrix_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.AdamW(
        others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate at a step (counted from 1) as a fraction of its peak."""
    left = (recipe.steps - step) / recipe.steps
    return min(1.0, step / recipe.warm_up, max(0.02, left / recipe.decay))
