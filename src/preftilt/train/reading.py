"""How likely a model finds responses, with gradients: the one place where training runs a model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preftilt.train.settings import LossReduction
from preftilt.train.tokens import Rows


@dataclass(frozen=True, slots=True)
class Reader:
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


def reader(
    model: Any, size: int, holes: tuple[int, ...], reduction: LossReduction = "sum"
) -> Reader:
    """The reader of ``model``."""
    takes = frozenset(inspect.signature(model.forward).parameters)
    return Reader(model, size, holes, takes, reduction)


def response_logprobs(reader: Reader, rows: Rows) -> Tensor:
    """log π(response | prompt) of each row [2P]: nats, in float32, over the response with its end."""
    kept = rows.targets.shape[1] + 1
    given: dict[str, Any] = {"input_ids": rows.ids, "attention_mask": rows.mask, "use_cache": False}
    if "position_ids" in reader.takes:
        given["position_ids"] = rows.positions
    if "logits_to_keep" in reader.takes:
        given["logits_to_keep"] = kept
    logits = reader.model(**given).logits[:, -kept:-1, : reader.size].float()
    if reader.holes:
        logits[:, :, list(reader.holes)] = -torch.inf
    each = -torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows.targets.flatten(), reduction="none"
    ).view_as(rows.targets)
    total = torch.where(rows.scored, each, 0.0).sum(dim=1)
    return total if reader.reduction == "sum" else total / rows.scored.sum(dim=1)


def margins(reader: Reader, rows: Rows) -> Tensor:
    """Δ [P]: log π(y₀|x) − log π(y₁|x) of each pair; one forward for both."""
    both = response_logprobs(reader, rows)
    return both[: len(both) // 2] - both[len(both) // 2 :]
