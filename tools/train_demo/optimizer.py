"""How the weights move: Muon for the matrices, AdamW for the rest, warm-up, plateau, decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tools.train_demo.network import Network


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training run. ``warm_up`` and ``decay`` are fractions of its steps."""

    steps: int = 2500
    rows: int = 14
    length: int = 256
    matrix_rate: float = 4e-3
    other_rate: float = 4e-3
    decay_weights: float = 0.05
    warm_up: float = 0.02
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
        weight_decay=recipe.decay_weights,
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
    done = step / recipe.steps
    if done < recipe.warm_up:
        return done / recipe.warm_up
    if done > 1 - recipe.decay:
        return max(0.02, (1 - done) / recipe.decay)
    return 1.0
