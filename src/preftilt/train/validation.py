"""Validation: how often a reward model ranks pairs as each objective does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from preftilt.arm.attach import AttachedArm
from preftilt.train.logprobs import CausalLM, margins
from preftilt.train.losses import bradley_terry
from preftilt.train.tokens import TokenPair, make_batch, sorted_batches


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Per objective, by name: the share of pairs ranked as it does (ties half), and the mean Bradley–Terry loss.

    Each is measured under the α that has this objective alone. ``accuracy`` and ``loss`` are the means over objectives.
    """

    accuracies: dict[str, float]
    losses: dict[str, float]

    @property
    def accuracy(self) -> float:
        return sum(self.accuracies.values()) / len(self.accuracies)

    @property
    def loss(self) -> float:
        return sum(self.losses.values()) / len(self.losses)


@torch.no_grad()
def validate(
    lm: CausalLM, arm: AttachedArm, pairs: Sequence[TokenPair], size: int
) -> ValidationResult:
    """Read all pairs, ``size`` at once, under the α of each objective in turn."""
    accuracies: dict[str, float] = {}
    losses: dict[str, float] = {}
    for index, objective in enumerate(arm.spec.objectives):
        judged = [pair for pair in pairs if pair.signs[index]]
        if not judged:
            continue
        right, loss = 0.0, 0.0
        for numbers in sorted_batches(judged, size):
            batch = [judged[number] for number in numbers]
            alphas = torch.zeros(2 * len(batch), len(arm.spec.objectives))
            alphas[:, index] = 1
            with arm.rows(alphas):
                gaps = margins(lm, make_batch(batch, lm.device)).cpu()
            gaps = gaps - torch.tensor([pair.reference for pair in batch])
            signs = torch.tensor([[pair.signs[index]] for pair in batch])
            right += float((0.5 + 0.5 * torch.sign(gaps * signs[:, 0])).sum())
            loss += float(bradley_terry(gaps, signs, torch.tensor([objective.beta])).sum())
        accuracies[objective.name], losses[objective.name] = right / len(judged), loss / len(judged)
    return ValidationResult(accuracies, losses)
