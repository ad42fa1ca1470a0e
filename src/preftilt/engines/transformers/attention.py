"""Attention that reads a shared prompt once for all the rows that continue it.

Every forward of this engine is *packed*: the new tokens of all rows stand one after another in a batch of one,
``[1, M]``, so nothing is spent on padding in the linear layers. What a token may attend to is known to a *plan*
(``decode.py``, ``extend.py``), which the function registered with transformers' ``AttentionInterface`` finds in
thread-local storage. A plan computes attention in *parts* (over a shared prompt, over a row's own tail) and merges
them exactly by their log-sum-exps, as in Flash-Decoding and cascade inference (Dao et al., 2023; Ye et al., 2024).
On a GPU the parts of all prompts are one call of a fused kernel (``fused.py``), for the layers that it can compute.

Shapes: B batch, H query heads, Hkv key/value heads, L queries, S keys, D and Dv head sizes, M packed tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from preftilt.engines.transformers.fused import FusedAttention

ATTENTION = "preftilt_shared_prefix"
"""The name under which the attention function is registered with transformers."""

MASKED = -1e30
"""Added to scores that must not count. Finite, so that a wholly masked part has weight zero rather than NaN."""

EXPLICIT_SCORES = 1 << 26
"""Most attention scores the explicit path materialises at once (256 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """A layer's attention parameters besides queries, keys and values; ``fused``: the kernel of its model, if any."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    fused: FusedAttention | None = None

    def kernel(self, q: Tensor, v: Tensor, reach: int) -> FusedAttention | None:
        """The fused kernel if it can compute this layer: scores without a cap, queries and values of one head size, and
        no window that ends inside the ``reach`` tokens of the longest sequence."""
        windowed = self.window is not None and reach > self.window
        if windowed or self.softcap is not None or q.shape[-1] != v.shape[-1]:
            return None
        return self.fused


class AttentionPlan(Protocol):
    """Knows what every packed token attends to."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams) -> Tensor:
        """``q`` [H, M, D], ``k`` [Hkv, M, D], ``v`` [Hkv, M, Dv] of the new tokens → [M, H, Dv]."""
        ...


class _Active(threading.local):
    plan: AttentionPlan | None = None
    fused: FusedAttention | None = None
    layers: set[tuple[int | None, float | None]] | None = None


_active = _Active()


@contextmanager
def attention_plan(plan: AttentionPlan, fused: FusedAttention | None) -> Iterator[None]:
    """Forwards of this thread use ``plan`` inside the block, and ``fused`` where it can."""
    _active.plan, _active.fused = plan, fused
    try:
        yield
    finally:
        _active.plan = _active.fused = None


@contextmanager
def recorded_layers() -> Iterator[set[tuple[int | None, float | None]]]:
    """Record the sliding windows and caps on scores that layers pass in inside the block (for the check at opening)."""
    seen: set[tuple[int | None, float | None]] = set()
    _active.layers = seen
    try:
        yield seen
    finally:
        _active.layers = None


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function behind :data:`ATTENTION`; the signature is transformers'."""
    plan = _active.plan
    if plan is None:
        raise RuntimeError(f"{ATTENTION} was called outside a preftilt forward")
    if _active.layers is not None:
        _active.layers.add((sliding_window or None, softcap))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shape = AttentionParams(scale, sliding_window or None, softcap, s_aux, _active.fused)
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    if (
        query.shape[0] > 1
    ):  # One batch row per token, where adapters differ by token (``ModelRunner``).
        q, k, v = (x[:, :, 0].transpose(0, 1) for x in (query, key, value))
        return plan.attend(layer, q, k, v, shape)[:, None], None
    return plan.attend(layer, query[0], key[0], value[0], shape)[None], None


def register() -> None:
    """Make the attention known to transformers; idempotent."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, shared_prefix_attention)


def part(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shape: AttentionParams,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Softmax attention over one set of keys, with its log-sum-exp so that parts can be merged.

    ``q`` [B, h, L, D], ``k`` [B, h, S, D], ``v`` [B, h, S, Dv], ``mask`` additive and broadcastable to [B, 1, L, S];
    ``causal`` needs L = S. Returns [B, h, L, Dv] and float32 [B, h, L].
    """
    if q.device.type == "cpu" and shape.softcap is None and q.shape[-1] == v.shape[-1]:
        if mask is not None:
            mask = mask.to(q.dtype).expand(q.shape[0], 1, q.shape[2], k.shape[2])
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=shape.scale
        )
    return _explicit(q, k, v, shape, mask, causal)


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams, mask: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor]:
    """The definition, a bounded number of queries at a time; scores, softmax and sums in float32."""
    rows = max(1, EXPLICIT_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    outs: list[Tensor] = []
    sums: list[Tensor] = []
    for start in range(0, q.shape[2], rows):
        stop = min(start + rows, q.shape[2])
        scores = torch.matmul(q[:, :, start:stop], k.transpose(2, 3)).float() * shape.scale
        if shape.softcap is not None:
            scores = torch.tanh(scores / shape.softcap) * shape.softcap
        if mask is not None:
            scores = scores + (mask[:, :, start:stop] if mask.shape[2] > 1 else mask)
        if causal:
            later = torch.ones(stop - start, k.shape[2], dtype=torch.bool, device=q.device).triu(
                start + 1
            )
            scores = scores.masked_fill(later, MASKED)
        total = torch.logsumexp(scores, dim=-1)
        weights = torch.exp(scores - total[..., None]).to(v.dtype)
        outs.append(torch.matmul(weights, v))
        sums.append(total)
    return torch.cat(outs, dim=2), torch.cat(sums, dim=2)


def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over the union of two disjoint sets of keys, from the parts over each."""
    (out_a, lse_a), (out_b, lse_b) = first, second
    weight = torch.sigmoid(lse_a - lse_b)[..., None]
    return torch.lerp(out_b, out_a, weight.to(out_b.dtype))


def sink(part: tuple[Tensor, Tensor], sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Let ``sinks`` [h, L] (a learned score that takes weight and gives no value) share the softmax of a part."""
    if sinks is None:
        return part
    out, lse = part
    total = torch.logaddexp(lse, sinks.float())
    return out * torch.exp(lse - total)[..., None].to(out.dtype), total
