"""Log-probs of responses under a model, with gradients: the one place where training runs a model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preftilt.train.settings import LossReduction
from preftilt.train.tokens import PairBatch


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
