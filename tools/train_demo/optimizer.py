"""How the weights move: Muon for the matrices, AdamW for the rest, warm-up, plateau, decay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.train_demo.network import Network


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training run.

    ``matrix_rate`` and ``other_rate`` are the highest learning rates. Four times as much makes
    attention saturate, and the model then never looks at a preference. ``drills`` is the part of
    the steps in which most answers under a preference are bare lists; ``decay`` the part in which the rates
    fall.
    """

    steps: int = 6000
    rows: int = 7
    length: int = 256
    matrix_rate: float = 1e-3
    other_rate: float = 2e-3
    weight_decay: float = 0.1
    warm_up: int = 100
    drills: float = 0.55
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
    muon = Muon(matrices, recipe.matrix_rate, recipe.weight_decay)
    adam = torch.optim.AdamW(
        others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


class Muon(torch.optim.Optimizer):
    """``torch.optim.Muon`` with all matrices of one shape orthogonalised together.

    On a CPU that is three times as fast as one matrix after another. The update is that of
    ``adjust_lr_fn="match_rms_adamw"``.
    """

    MOMENTUM = 0.95
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    ITERATIONS = 5

    def __init__(self, matrices: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step for every matrix that has a gradient."""
        assert closure is None, "the loss is not computed again"
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for weight in group["params"]:
                shapes.setdefault(weight.shape, []).append(weight)
            for alike in shapes.values():
                self._step(alike, group["lr"], group["weight_decay"])

    def _step(self, weights: list[Tensor], lr: float, weight_decay: float) -> None:
        gradients = torch.stack([weight.grad for weight in weights if weight.grad is not None])
        state = self.state[weights[0]]
        momentum = state.setdefault("momentum", torch.zeros_like(gradients))
        momentum.lerp_(gradients, 1 - self.MOMENTUM)
        update = self._orthogonal(gradients.lerp_(momentum, self.MOMENTUM))
        scale = lr * 0.2 * max(weights[0].shape) ** 0.5
        for weight, change in zip(weights, update.float(), strict=True):
            weight.mul_(1 - lr * weight_decay).sub_(change, alpha=scale)

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        """The nearest semi-orthogonal matrices, about, by Newton and Schulz's iteration."""
        tall = matrices.shape[-2] > matrices.shape[-1]
        x = (matrices.mT if tall else matrices).bfloat16().contiguous()
        x /= x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
        a, b, c = self.COEFFICIENTS
        for _ in range(self.ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x


def rate(step: int, recipe: Recipe) -> float:
    """The learning rate at a step (counted from 1) as a fraction of its peak."""
    left = (recipe.steps - step) / recipe.steps
    return min(1.0, step / recipe.warm_up, max(0.02, left / recipe.decay))
