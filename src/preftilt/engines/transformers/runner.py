"""Runs the model: packed tokens in, logits at the requested positions out; counts all forwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from preftilt.engines.transformers.attention import AttentionPlan, attention_plan
from preftilt.engines.transformers.device import on_cpu
from preftilt.engines.transformers.fused import FusedAttention
from preftilt.engines.transformers.linears import CpuLinear, RoundedHead
from preftilt.engines.transformers.sampler import logprobs_of
from preftilt.types import Reader

if TYPE_CHECKING:
    from preftilt.engines.transformers.arm_loading import AttachedArms, Readers
    from preftilt.engines.transformers.image_embedding import ImageEmbedder

LOGIT_NUMBERS = 1 << 24
"""Most logits held at once when scoring (64 MiB in float32)."""

GPU_LOGIT_NUMBERS = 1 << 27
"""The same on a GPU (512 MiB), which reads the output layer anew for every part."""


@dataclass(slots=True)
class TransformersStats:
    """Counters since the engine was opened.

    forwards: passes through the model. prompt_tokens, response_tokens: tokens forwarded as part of a prompt and of a
    response. prompt_hits: requests whose prompt was cached. shared_tokens: prompt tokens taken from the cache of
    another prompt with the same prefix. drawn, scored: tokens sampled and scored. rows: rows started.
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
        """Set all counters to 0."""
        for counted in fields(self):
            setattr(self, counted.name, 0)


class PackedPlan(AttentionPlan, Protocol):
    """A plan with the positions [M] of its packed tokens.

    ``shifts`` [3, M]: position ids minus positions; None if all are 0. ``readers`` [M]: None if all are the base.
    """

    positions: Tensor
    shifts: Tensor | None
    readers: Readers | None


class ModelRunner:
    """Runs a causal language model on packed tokens.

    vocabulary: number of output rows that the tokenizer knows; padding rows after them are cut off before the softmax,
    so they are neither sampled nor counted. ``holes`` are unknown ids below that limit.
    kernels: what :func:`~.linears.choose_kernels` told.
    own_logits: take logits from the model's own forward (models that scale or cap them).
    fused: the kernel for the attention of all sequences of a forward, if it has been found to be right for this model.
    attention_kernel: what computes attention, in words.
    embedder: embeds images, if the model can; ``language_model`` is then the model's language model, else the model.
    body: what computes hidden states. head: what turns them into logits.
    arms: the reward models attached to it. arm_runners: runners of other base models, by the name of the reward model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        vocabulary: int,
        holes: Tensor | None = None,
        embedder: ImageEmbedder | None = None,
    ) -> None:
        self.model: Any = model
        self.embedder = embedder
        self.language_model: Any = model if embedder is None else embedder.language_model
        self.vocabulary = vocabulary
        self.holes = holes
        self.own_logits = False
        self.fused: FusedAttention | None = None
        self.attention_kernel = ""
        self.kernels = ""
        self.arms: AttachedArms | None = None
        self.arm_runners: Mapping[str, ModelRunner] = {}
        self.stats = TransformersStats()
        self.body: Any = (
            getattr(model, self.model.base_model_prefix)
            if embedder is None
            else self.language_model
        )
        self.device: torch.device = self.model.get_input_embeddings().weight.device
        head = self.model.get_output_embeddings()
        self.head = output_head(head, vocabulary)

    def runner_of(self, reader: Reader | None) -> ModelRunner:
        """The runner of ``reader``: this one, unless its reward model has another base model."""
        return self if reader is None else self.arm_runners.get(reader.arm, self)

    def logits(self, plan: PackedPlan, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Float32 logits [n, V] after the packed positions ``positions`` [n] (None: all, in order)."""
        return self._to_logits(self._states(plan, tokens, positions))

    def logprobs(self, plan: PackedPlan, tokens: Tensor, targets: Tensor) -> Tensor:
        """Log-probs (float64 [M]) of ``targets`` [M], one after each of the packed tokens."""
        states = self._states(plan, tokens, None)
        rows = self.positions_at_once()
        parts = [
            logprobs_of(self._to_logits(states[r : r + rows]), targets[r : r + rows])
            for r in range(0, len(targets), rows)
        ]
        return torch.cat(parts)

    def positions_at_once(self, views: int = 1) -> int:
        """For how many positions the logits under so many views are held at once when scoring."""
        numbers = LOGIT_NUMBERS if on_cpu(self.device) else GPU_LOGIT_NUMBERS
        return max(1, numbers // (self.vocabulary * views))

    def each_logits(
        self, plan: PackedPlan, tokens: Tensor, places: Iterable[Tensor]
    ) -> Iterator[Tensor]:
        """As :meth:`logits` at each of ``places`` in turn: one forward, and logits for one of them at a time."""
        states = self._states(plan, tokens, None)
        for positions in places:
            yield self._to_logits(states[positions])

    def run(self, plan: PackedPlan, tokens: Tensor) -> None:
        """Forward without logits, to fill caches."""
        self._states(plan, tokens, tokens.new_zeros(1))

    def _states(self, plan: PackedPlan, tokens: Tensor, positions: Tensor | None) -> Tensor:
        """What :meth:`_to_logits` turns into logits, at ``positions``: hidden states, or the model's own logits."""
        self.stats.forwards += 1
        if plan.readers is not None:
            return self._states_by_rows(plan, tokens, positions, plan.readers)
        inputs = {
            **self._inputs(tokens[None]),
            "position_ids": _packed_position_ids(plan),
            "use_cache": False,
        }
        with attention_plan(plan, self.fused):
            if self.own_logits:
                keep = 0 if positions is None else positions
                return self.model(**inputs, logits_to_keep=keep).logits[0]
            hidden = self.body(**inputs).last_hidden_state[0]
        return hidden if positions is None else hidden[positions]

    def _states_by_rows(
        self, plan: PackedPlan, tokens: Tensor, positions: Tensor | None, readers: Readers
    ) -> Tensor:
        """As :meth:`_states` with one batch row per token, so that every token can have its own adapter."""
        assert self.arms is not None
        inputs = {
            **self._inputs(tokens[:, None]),
            "position_ids": plan.positions[:, None],
            "use_cache": False,
        }
        with attention_plan(plan, self.fused), self.arms.active(readers):
            if self.own_logits:
                states = self.model(**inputs).logits[:, 0]
            else:
                states = self.body(**inputs).last_hidden_state[:, 0]
        return states if positions is None else states[positions]

    def forward_rows(
        self, tokens: Tensor, cache: Any, reader: Reader | None, shifts: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The model's own forward of ``tokens`` [N, L], all under ``reader``: logits [N, L, rows], and the cache.

        ``shifts`` [3, L or 1] as in :class:`PackedPlan`.
        """
        self.stats.forwards += 1
        with ExitStack() as stack:
            if reader is not None:
                assert self.arms is not None
                stack.enter_context(self.arms.active((reader,) * len(tokens)))
            inputs = {**self._inputs(tokens), **self._position_ids(tokens, cache, shifts)}
            out = self.model(**inputs, past_key_values=cache, use_cache=True)
        return out.logits, out.past_key_values

    def _inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens [N, L] as model inputs: ids, or embeddings where there are images."""
        return (
            {"input_ids": tokens} if self.embedder is None else self.embedder.model_inputs(tokens)
        )

    def _position_ids(self, tokens: Tensor, cache: Any, shifts: Tensor | None) -> dict[str, Tensor]:
        """Position ids for models that would otherwise use those of the last images; others compute their own."""
        if self.embedder is None or not self.embedder.has_3d_positions:
            return {}
        start = 0 if cache is None else cache.get_seq_length()
        positions = torch.arange(start, start + tokens.shape[1]).expand(3, -1)
        if shifts is not None:
            positions = positions + shifts
        return {"position_ids": positions[:, None].expand(-1, len(tokens), -1).to(self.device)}

    def to_float32(self, logits: Tensor) -> Tensor:
        """The model's own logits [..., rows] in float32, over the known ids: [..., V]."""
        return self._masked(logits[..., : self.vocabulary].float())

    def _to_logits(self, states: Tensor) -> Tensor:
        if self.own_logits:
            return self.to_float32(states)
        return self._masked(self.head(states.to(self.head.weight.dtype)))

    def _masked(self, logits: Tensor) -> Tensor:
        return logits if self.holes is None else logits.index_fill(-1, self.holes, -torch.inf)


def output_head(head: Any, vocabulary: int) -> CpuLinear | RoundedHead:
    """What turns hidden states into float32 logits [V], whatever the model is in: a bfloat16 logit near 20 is rounded
    to multiples of 1/8. ``head``: the model's own, with padding rows after the known ids.

    On a CPU a product of 16-bit numbers is no faster than one of float32 numbers; on a GPU it is several times, and a
    copy of the weights in float32 would take as much memory as a small model.
    """
    weight, bias = head.weight.detach()[:vocabulary], getattr(head, "bias", None)
    bias = None if bias is None else bias.detach()[:vocabulary].float()
    if not on_cpu(weight.device) and weight.dtype in (torch.float16, torch.bfloat16):
        return RoundedHead(weight, bias)
    return CpuLinear(weight.float(), bias, (head,))


def _packed_position_ids(plan: PackedPlan) -> Tensor:
    """Position ids [1, M], or [3, 1, M] for models with three-dimensional ones."""
    if plan.shifts is None:
        return plan.positions[None]
    return (plan.positions + plan.shifts)[:, None]
