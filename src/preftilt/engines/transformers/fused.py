"""Attention of many sequences in one call of a fused GPU kernel that returns its log-sum-exp.

Queries and keys of all sequences stand one after another (*packed*), and :class:`Spans` say where each begins, so a
batch takes one call however many prompts its rows continue. The queries that share a key/value head are *folded*: they
become queries of one head, one after another, so that a kernel reads every key once for all of them and needs to know
nothing of grouped heads. That is right wherever a query may see all keys of its sequence.

Shapes: T queries and S keys of all sequences, N sequences, H query heads, Hkv key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from preftilt.engines.transformers.device import upload
from preftilt.engines.transformers.prefix_cache import Layers, layers_bytes

PACKED_BYTES = 2 << 30
"""Prompts of more bytes are laid end to end anew in every forward, one layer at a time, rather than kept so."""

CAUSAL_FROM_BOTTOM_RIGHT = 2
"""Number of that mask in ``_efficient_attention_forward``: the last query sees all keys."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Sequence n has the queries from ``queries[n]`` to ``queries[n + 1]``, and the keys from ``keys[n]`` on.

    queries, keys: int32 [N + 1]. used: int32 [N], how many of its keys count; None: those up to ``keys[n + 1]``.
    most_queries, most_keys: of a sequence.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int
    used: Tensor | None = None


class FusedAttention(Protocol):
    """A kernel: softmax attention of every sequence over its keys."""

    __name__: str

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, *, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """``q`` [T, H, D], ``k`` and ``v`` [S, Hkv, D] → [T, H, D], and the log-sum-exps float32 [T, H].

        ``causal``: the last query of a sequence sees all of its keys, the one before it all but the last, and so on.
        """
        ...


def fused_kernels(device: torch.device, dtype: torch.dtype) -> tuple[FusedAttention, ...]:
    """The kernels to try for a model, the fastest first; none on a CPU, which has its own for single sequences.

    Whether a GPU, a version of torch and a head size are among those that a kernel is made for shows when a model is
    opened: it is used if the model's log-probs are then right (:func:`~.probe.install`).
    """
    if device.type != "cuda":
        return ()
    return (flash, efficient) if dtype in (torch.float16, torch.bfloat16) else (efficient,)


def flash(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """FlashAttention (Dao, 2024), for 16 bits."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    out, lse = varlen_attn(
        q,
        k,
        v,
        spans.queries,
        spans.keys,
        spans.most_queries,
        spans.most_keys,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
        seqused_k=spans.used,
    )
    return out, lse.transpose(0, 1)  # It comes as [H, T], whatever its documentation says.


def efficient(
    q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention (Rabe and Staats, 2021), for float32, too; torch has no public name for it."""
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    forward: Any = torch.ops.aten._efficient_attention_forward
    out, padded, *_ = forward(
        q[None],
        k[None],
        v[None],
        None,
        spans.queries,
        spans.keys,
        spans.most_queries,
        spans.most_keys,
        0.0,
        CAUSAL_FROM_BOTTOM_RIGHT if causal else 0,
        True,
        scale=scale,
        seqlen_k=spans.used,
    )
    return out[0], _unpadded(padded, spans.queries, len(q))


def _unpadded(padded: Tensor, starts: Tensor, tokens: int) -> Tensor:
    """What stands a sequence a row, [N, H, W], as [T, H]; ``starts`` int32 [N + 1]."""
    sequences = torch.arange(len(starts) - 1, device=starts.device)
    sequence = torch.repeat_interleave(sequences, starts.diff(), output_size=tokens)
    place = torch.arange(tokens, device=starts.device) - starts[sequence]
    return padded[sequence, :, place]


def fold(q: Tensor, kv_heads: int) -> Tensor:
    """Queries [H, M, D] as [M · G, Hkv, D]: the G of a key/value head one after another."""
    folded = q.unflatten(0, (kv_heads, -1)).permute(2, 1, 0, 3)
    return folded.reshape(-1, kv_heads, q.shape[-1])


def unfold(out: Tensor, lse: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """What a kernel made of folded queries, as [M, H, D] and [M, H]."""
    by_head = out.unflatten(0, (tokens, -1)).transpose(1, 2)
    return by_head.flatten(1, 2), lse.unflatten(0, (tokens, -1)).transpose(1, 2).flatten(1)


def starts(lengths: Sequence[int], device: torch.device, times: int = 1) -> Tensor:
    """Where sequences of these lengths, ``times`` over, begin and the last one ends: int32 [N + 1]."""
    ends = [times * end for end in accumulate(lengths, initial=0)]
    return upload(ends, device, torch.int32)


class PromptGroups:
    """Attention of queries over the prompts that they continue: those of a group all over one prompt.

    The prompts' caches are laid end to end; a single one is not copied. layers, lengths: of every group's prompt.
    counts: its number of queries.
    """

    def __init__(
        self,
        layers: Sequence[Layers],
        lengths: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
    ) -> None:
        self._layers = layers
        self._lengths = lengths
        self._counts = counts
        self._device = device
        self._keeps: bool | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._spans: dict[int, Spans] = {}

    def attend(
        self, fused: FusedAttention, layer: int, q: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """``q`` [H, M, D], in the order of the groups → [M, H, Dv] and log-sum-exps [M, H], by one call."""
        keys, values = self._packed(layer)
        times = q.shape[0] // keys.shape[1]
        if times not in self._spans:
            self._spans[times] = Spans(
                starts(self._counts, self._device, times),
                starts(self._lengths, self._device),
                times * max(self._counts),
                max(self._lengths),
            )
        out, lse = fused(fold(q, keys.shape[1]), keys, values, self._spans[times], scale)
        return unfold(out, lse, q.shape[1])

    def _packed(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys [S, Hkv, D] and values [S, Hkv, Dv] of all prompts."""
        if layer in self._kept:
            return self._kept[layer]
        if self._keeps is None:
            self._keeps = sum(map(layers_bytes, self._layers)) <= PACKED_BYTES
        keys, values = zip(*(layers[layer] for layers in self._layers), strict=True)
        packed = (_end_to_end(keys), _end_to_end(values))
        if self._keeps:
            self._kept[layer] = packed
        return packed


def _end_to_end(caches: Sequence[Tensor]) -> Tensor:
    """[h, P, D] of every prompt as [S, h, D]."""
    first, *others = (cache.transpose(0, 1) for cache in caches)
    return torch.cat([first, *others]) if others else first
