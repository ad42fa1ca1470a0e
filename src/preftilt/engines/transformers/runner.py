"""The model: packed tokens in, logits where they are needed out; everything that is forwarded is counted here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from preftilt.engines.transformers.attention import Plan, attending
from preftilt.engines.transformers.sampler import logprobs_of

LOGIT_NUMBERS = 1 << 24
"""Most logits held at once when scoring (64 MiB in float32)."""

FEW_ROWS = (6, 48)
"""From and up to so many rows a float32 matmul on the CPU is faster with the weight as the left factor."""


@dataclass(slots=True)
class Stats:
    """What the engine has done so far.

    forwards: passes through the model. prompt_tokens, response_tokens: tokens forwarded as part of a prompt and of a
    response. prompt_hits: requests whose prompt was there already. shared_tokens: prompt tokens taken from another
    prompt that begins alike. drawn, scored: tokens sampled and scored. rows: rows started.
    """

    forwards: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    prompt_hits: int = 0
    shared_tokens: int = 0
    drawn: int = 0
    scored: int = 0
    rows: int = 0

    def reset(self) -> None:
        """Count from nothing again."""
        for counted in fields(self):
            setattr(self, counted.name, 0)


class PackedPlan(Plan, Protocol):
    """A plan with the positions [M] of the packed tokens it is for."""

    positions: Tensor


class Runner:
    """Runs a causal language model on packed tokens.

    vocabulary: the model's rows that the tokenizer knows come first; padding rows after them are cut off before the
    softmax, so they are neither sampled nor counted. ``holes`` are unknown ids below that limit.
    own_logits: take logits through the model's own forward (models that scale or cap them).
    """

    def __init__(self, model: nn.Module, *, vocabulary: int, holes: Tensor | None = None) -> None:
        self.model: Any = model
        self.vocabulary = vocabulary
        self.holes = holes
        self.own_logits = False
        self.stats = Stats()
        self._body: Any = getattr(model, self.model.base_model_prefix)
        self.device: torch.device = self.model.get_input_embeddings().weight.device
        head = self.model.get_output_embeddings()
        # Logits are float32 whatever the model is in: a bfloat16 logit near 20 is rounded to multiples of 1/8.
        self._weight: Tensor = head.weight.detach()[:vocabulary].float()
        bias = getattr(head, "bias", None)
        self._bias = None if bias is None else bias.detach()[:vocabulary].float()

    def logits(self, plan: PackedPlan, tokens: Tensor, where: Tensor | None = None) -> Tensor:
        """Float32 logits [n, V] after the packed positions ``where`` [n] (None: all, in order)."""
        return self._finish(self._states(plan, tokens, where))

    def logprobs(self, plan: PackedPlan, tokens: Tensor, targets: Tensor) -> Tensor:
        """Log-probs (float64 [M]) of ``targets`` [M], one after each of the packed tokens."""
        states = self._states(plan, tokens, None)
        rows = max(1, LOGIT_NUMBERS // self.vocabulary)
        parts = [
            logprobs_of(self._finish(states[r : r + rows]), targets[r : r + rows])
            for r in range(0, len(targets), rows)
        ]
        return torch.cat(parts)

    def run(self, plan: PackedPlan, tokens: Tensor) -> None:
        """Forward for the caches' sake only."""
        self._states(plan, tokens, tokens.new_zeros(1))

    def _states(self, plan: PackedPlan, tokens: Tensor, where: Tensor | None) -> Tensor:
        """What :meth:`_finish` turns into logits, at ``where``: hidden states, or the model's own logits."""
        self.stats.forwards += 1
        inputs = {
            "input_ids": tokens[None],
            "position_ids": plan.positions[None],
            "use_cache": False,
        }
        with attending(plan):
            if self.own_logits:
                keep = 0 if where is None else where
                return self.model(**inputs, logits_to_keep=keep).logits[0]
            hidden = self._body(**inputs).last_hidden_state[0]
        return hidden if where is None else hidden[where]

    def clean(self, logits: Tensor) -> Tensor:
        """The model's own logits [..., rows] in float32, over the ids that exist: [..., V]."""
        return self._masked(logits[..., : self.vocabulary].float())

    def _finish(self, states: Tensor) -> Tensor:
        return self.clean(states) if self.own_logits else self._masked(self._head(states.float()))

    def _masked(self, logits: Tensor) -> Tensor:
        return logits if self.holes is None else logits.index_fill(-1, self.holes, -torch.inf)

    def _head(self, hidden: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return _linear(self._weight, self._bias, hidden)
        return nn.functional.linear(hidden, self._weight, self._bias)


def few_rows_first(model: nn.Module) -> None:
    """Teach float32 linear layers on the CPU the product that is quick for few rows; results stay the same.

    MKL packs the whole weight for every call of x Wᵀ, which for 16 rows takes longer than multiplying; for W xᵀ it
    packs the 16 columns instead (1.6 to 2 times faster, measured on weights that do not fit the cache).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32:
            setattr(module, "forward", partial(_linear, module.weight, module.bias))  # noqa: B010


def _linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    rows = x.numel() // x.shape[-1]
    if not FEW_ROWS[0] <= rows <= FEW_ROWS[1]:
        return nn.functional.linear(x, weight, bias)
    product = torch.mm(weight, x.reshape(rows, -1).t()).t().contiguous()
    if bias is not None:
        product += bias
    return product.view(*x.shape[:-1], -1)
