"""torch's kernels that only GPUs have, computed on the CPU, so that our calls of them are those of a GPU.

They check their arguments as the real ones do, and what they return is laid out as torch's own shape functions say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Empty = tuple[Tensor, ...]


@dataclass(slots=True)
class KernelCalls:
    """How often a kernel was called, and how many sequences the largest call had; ``products``: 16-bit matrix products
    with a result in another dtype."""

    flash: int = 0
    efficient: int = 0
    products: int = 0
    most_sequences: int = 0

    @property
    def count(self) -> int:
        return self.flash + self.efficient


@contextmanager
def gpu_kernels_on_cpu() -> Iterator[KernelCalls]:
    """Inside the block torch has these kernels for tensors of the CPU, too."""
    calls = KernelCalls()

    def flash(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: Tensor,
        keys: Tensor,
        most_queries: int,
        most_keys: int,
        dropout: float,
        causal: bool,
        debug: bool,
        *,
        scale: float,
        window_size_left: int,
        window_size_right: int,
        seqused_k: Tensor | None = None,
        **others: Any,
    ) -> Empty:
        calls.flash += 1
        assert q.dtype == k.dtype == v.dtype in (torch.float16, torch.bfloat16)
        assert q.shape[-1] % 8 == 0
        assert q.shape[-1] <= 256
        assert q.shape[1] % k.shape[1] == 0
        assert (window_size_left, window_size_right) == (-1, 0 if causal else -1)
        assert not dropout
        assert not debug
        assert not any(value for value in others.values())
        out, lse = packed_attention(
            q, k, v, (queries, keys, most_queries, most_keys, seqused_k), scale, causal=causal
        )
        nothing = q.new_empty(0)
        calls.most_sequences = max(calls.most_sequences, len(queries) - 1)
        return out, lse.transpose(0, 1).contiguous(), nothing, nothing, nothing

    def efficient(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: None,
        queries: Tensor,
        keys: Tensor,
        most_queries: int,
        most_keys: int,
        dropout: float,
        mask: int,
        wants_lse: bool,
        *,
        scale: float,
        seqlen_k: Tensor | None = None,
    ) -> tuple[Any, ...]:
        calls.efficient += 1
        assert bias is None
        assert not dropout
        assert wants_lse
        assert mask in (0, 2)
        assert q.shape[0] == k.shape[0] == v.shape[0] == 1
        assert q.shape[2] == k.shape[2]
        out, lse = packed_attention(
            q[0],
            k[0],
            v[0],
            (queries, keys, most_queries, most_keys, seqlen_k),
            scale,
            causal=mask == 2,
        )
        sequences = len(queries) - 1
        padded = lse.new_full((sequences, q.shape[2], math.ceil(most_queries / 32) * 32), math.nan)
        for n in range(sequences):
            start, stop = int(queries[n]), int(queries[n + 1])
            padded[n, :, : stop - start] = lse[start:stop].transpose(0, 1)
        calls.most_sequences = max(calls.most_sequences, sequences)
        return out[None], padded, q.new_empty(0), q.new_empty(0), most_queries, most_keys

    def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        calls.products += 1
        assert a.dtype == b.dtype != dtype
        return (a.double() @ b.double()).to(dtype)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("mm.dtype", product, "CPU")
        library.impl("_flash_attention_forward", flash, "CPU")
        library.impl("_efficient_attention_forward", efficient, "CPU")
        yield calls


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: tuple[Tensor, Tensor, int, int, Tensor | None],
    scale: float,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """By definition, a sequence after the other: [T, H, D] and [T, H]. What belongs to no sequence stays NaN."""
    queries, keys, most_queries, most_keys, used = spans
    assert queries.dtype == keys.dtype == torch.int32
    assert len(queries) == len(keys)
    assert used is None or (used.dtype == torch.int32 and len(used) == len(queries) - 1)
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert int(queries[-1]) == len(q)
    assert int(keys[-1]) <= len(k)
    assert int(queries.diff().max()) == most_queries
    counts = keys.diff() if used is None else used
    assert int(counts.min()) > 0
    assert int(counts.max()) == most_keys
    out = torch.full((*q.shape[:2], v.shape[-1]), math.nan)
    lse = torch.full(q.shape[:2], math.nan)
    for n, count in enumerate(counts.tolist()):
        start, stop, first = int(queries[n]), int(queries[n + 1]), int(keys[n])
        key, value = (
            x[first : first + count].float().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            for x in (k, v)
        )
        scores = torch.einsum("qhd,khd->hqk", q[start:stop].float(), key) * scale
        if causal:
            hidden = torch.ones(stop - start, count, dtype=torch.bool).triu(
                count - (stop - start) + 1
            )
            scores = scores.masked_fill(hidden, -torch.inf)
        out[start:stop] = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value)
        lse[start:stop] = torch.logsumexp(scores, dim=-1).transpose(0, 1)
    return out.to(q.dtype), lse
