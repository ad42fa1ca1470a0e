"""Log-probs of responses, with gradients, losses on pairs, and how often a model ranks pairs as each objective does.

The losses are Bradley–Terry for each objective, weighted by α, and UniARM's second term. Shapes: P pairs, k objectives.
Δ [P] is log π(y₀|x) − log π(y₁|x), nats, sums over whole responses with their end, not divided by length (GenARM;
PARM). ``signs`` [P, k] is +1 where objective i prefers response 0, −1 where it prefers response 1, 0 where it has no
verdict.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from preftilt.arm.attach import AttachedArm
from preftilt.train.settings import GlobalLoss, LossReduction
from preftilt.train.tokens import PairBatch, TokenPair, make_batch, sorted_batches


@dataclass(frozen=True, slots=True)
class CausalLM:
    """A causal language model and the ids it is normalised over: those below ``size`` but for ``holes``.

    takes: names of its forward's arguments; few models lack those that save work. reduction: whether a response
    counts by the sum of its log-probs, or by their mean.
    """

    model: Any
    size: int
    holes: tuple[int, ...]
    takes: frozenset[str]
    reduction: LossReduction = "sum"

    @property
    def device(self) -> torch.device:
        """Where its input goes."""
        return self.model.get_input_embeddings().weight.device


def causal_lm(
    model: Any, size: int, holes: tuple[int, ...], reduction: LossReduction = "sum"
) -> CausalLM:
    """``model`` with the names of its arguments; see :class:`CausalLM`."""
    takes = frozenset(inspect.signature(model.forward).parameters)
    return CausalLM(model, size, holes, takes, reduction)


def response_logprobs(lm: CausalLM, rows: PairBatch) -> Tensor:
    """log π(response | prompt) of each row [2P]: nats, in float32, over the response with its end."""
    kept = rows.targets.shape[1] + 1
    inputs: dict[str, Any] = {
        "input_ids": rows.ids,
        "attention_mask": rows.mask,
        "use_cache": False,
    }
    if "position_ids" in lm.takes:
        inputs["position_ids"] = rows.positions
    if "logits_to_keep" in lm.takes:
        inputs["logits_to_keep"] = kept
    logits = lm.model(**inputs).logits[:, -kept:-1, : lm.size].float()
    if lm.holes:
        logits[:, :, list(lm.holes)] = -torch.inf
    each = -torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows.targets.flatten(), reduction="none"
    ).view_as(rows.targets)
    total = torch.where(rows.scored, each, 0.0).sum(dim=1)
    return total if lm.reduction == "sum" else total / rows.scored.sum(dim=1)


def margins(lm: CausalLM, rows: PairBatch) -> Tensor:
    """Δ [P]: log π(y₀|x) − log π(y₁|x) of each pair; one forward for both."""
    both = response_logprobs(lm, rows)
    return both[: len(both) // 2] - both[len(both) // 2 :]


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
