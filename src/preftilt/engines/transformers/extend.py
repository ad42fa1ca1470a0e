"""Extend forwards, many tokens a row: prefilling prompts and scoring completions.

A *segment* is a run of new tokens after a cached prompt and a cached tail, either of which may be empty. Segments of
one prompt are adjacent and read its cache once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from preftilt.engines.transformers.attention import MASKED, AttentionParams, merge, part, sink
from preftilt.engines.transformers.device import upload
from preftilt.engines.transformers.fused import (
    FusedAttention,
    PromptGroups,
    Spans,
    fold,
    starts,
    unfold,
)
from preftilt.engines.transformers.prefix_cache import Layers, concat_layers
from preftilt.types import Reader, Tokens


@dataclass(frozen=True, slots=True)
class ExtendSegment:
    """New tokens after ``prefix`` [P tokens] and ``tail`` [T tokens], all under one reader.

    shifts: position ids minus indices, of every token ([3, n]) or the same for all ([3, 1]).
    """

    tokens: Tokens
    prefix: Layers
    prefix_length: int
    tail: Layers
    tail_length: int
    reader: Reader | None = None
    shifts: Tensor | None = None

    @property
    def start(self) -> int:
        """The absolute position of the first new token."""
        return self.prefix_length + self.tail_length


@dataclass(frozen=True, slots=True)
class _Group:
    """Packed tokens from ``start`` to ``stop`` that follow the prefix of ``segment``."""

    start: int
    stop: int
    segment: ExtendSegment


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Neighbouring segments [S] of similar length, side by side as a block [S, width] for their own attention.

    ``index`` [S, width] are packed positions, the last one repeated where a segment is shorter, and ``cells`` [n] the
    places of real tokens in the flat block; both are absent if all segments are equally long.
    """

    segments: tuple[int, ...]
    start: int
    stop: int
    width: int
    index: Tensor | None
    cells: Tensor | None

    def pad(self, x: Tensor) -> Tensor:
        """[h, M, D] → [S, h, width, D]."""
        if self.index is not None:
            return x[:, self.index].transpose(0, 1)
        block = x[:, self.start : self.stop]
        return block.unflatten(1, (len(self.segments), self.width)).transpose(0, 1)

    def unpad(self, x: Tensor) -> Tensor:
        """[S, h, width, …] → [n, h, …], real tokens only."""
        flat = x.transpose(1, 2).flatten(0, 1)
        return flat if self.cells is None else flat[self.cells]


class ExtendPlan:
    """Attention of the tokens of a list of segments; captures their keys and values."""

    def __init__(
        self, segments: Sequence[ExtendSegment], device: torch.device, *, capture: bool = True
    ) -> None:
        """``segments`` must have those of one prefix side by side; ``capture``: :meth:`layers` will be called."""
        self.segments = tuple(segments)
        self.device = device
        self._capture = capture
        self.captured: Layers = {}
        self.offsets = [0]
        for segment in self.segments:
            self.offsets.append(self.offsets[-1] + len(segment.tokens))
        self.positions = upload(
            [i for s in self.segments for i in range(s.start, s.start + len(s.tokens))], device
        )
        self.tokens = upload([t for s in self.segments for t in s.tokens], device)
        self.shifts = _shifts(self.segments, device)
        self.readers = _readers(self.segments)
        self._reach = max(s.start + len(s.tokens) for s in self.segments)
        self._groups = self._prefix_groups()
        self._masks: dict[object, Tensor | None] = {}
        self._fused: _FusedExtend | None = None

    def layers(self, segment: int) -> Layers:
        """A copy of one segment's tail with its new tokens appended; contiguous, heads first."""
        start, stop = self.offsets[segment], self.offsets[segment + 1]
        new = {
            layer: (_contiguous_copy(k[:, start:stop]), _contiguous_copy(v[:, start:stop]))
            for layer, (k, v) in self.captured.items()
        }
        return concat_layers(self.segments[segment].tail, new)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams) -> Tensor:
        """See :class:`~preftilt.engines.transformers.attention.AttentionPlan`."""
        if self._capture:
            self.captured[layer] = (k, v)
        fused = shape.kernel(q, v, self._reach)
        if fused is not None:
            if self._fused is None:
                self._fused = _FusedExtend(self.segments, self._groups, self.device)
            return self._fused.attend(fused, layer, q, k, v, shape)
        out, lse = self._among_themselves(layer, q, k, v, shape)
        for group in self._groups:
            if group.stop - group.start == len(out):
                return merge(self._over_prefix(layer, q, group, shape), (out, lse))
            here = slice(group.start, group.stop)
            out[here] = merge(
                self._over_prefix(layer, q[:, here], group, shape), (out[here], lse[here])
            )
        return out

    def _over_prefix(
        self, layer: int, q: Tensor, group: _Group, shape: AttentionParams
    ) -> tuple[Tensor, Tensor]:
        """All of a group's queries [H, n, D] over its prompt, those of a key/value head in one matmul.

        Returns [n, H, Dv] and [n, H].
        """
        key, value = group.segment.prefix[layer]
        heads, groups, n = key.shape[0], q.shape[0] // key.shape[0], q.shape[1]
        folded = q.reshape(1, heads, groups * n, q.shape[-1])
        mask = self._prefix_mask(shape.window, group, groups)
        out, lse = part(folded, key[None], value[None], shape, mask=mask)
        out = out.view(heads, groups, n, -1).permute(2, 0, 1, 3).reshape(n, q.shape[0], -1)
        return out, lse.view(heads, groups, n).permute(2, 0, 1).reshape(n, q.shape[0])

    def _among_themselves(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams
    ) -> tuple[Tensor, Tensor]:
        """Causal attention of every segment over its stored tail and its new tokens: [M, H, Dv], [M, H]."""
        parts = [self._bucket(layer, bucket, q, k, v, shape) for bucket in self._buckets]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])

    def _bucket(
        self, layer: int, bucket: _Bucket, q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams
    ) -> tuple[Tensor, Tensor]:
        """[n, H, Dv] and [n, H] of a bucket's tokens."""
        q, k, v = (bucket.pad(x) for x in (q, k, v))
        stored = max(self.segments[s].tail_length for s in bucket.segments)
        if stored:
            tails = [self.segments[s].tail.get(layer) for s in bucket.segments]
            k = torch.cat([_stacked([t and t[0] for t in tails], stored, k), k], dim=2)
            v = torch.cat([_stacked([t and t[1] for t in tails], stored, v), v], dim=2)
        repeats = q.shape[1] // k.shape[1]
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mask = self._tail_mask(bucket, stored, shape.window)
        out, lse = part(q, k, v, shape, mask=mask, causal=mask is None)
        return sink((bucket.unpad(out), bucket.unpad(lse)), shape.sinks)

    def _prefix_groups(self) -> list[_Group]:
        """The ranges of packed tokens that share a prefix."""
        groups: list[_Group] = []
        numbered = enumerate(self.segments)
        for _, run in groupby(numbered, key=lambda pair: id(pair[1].prefix)):
            members = list(run)
            if members[0][1].prefix_length:
                start, stop = self.offsets[members[0][0]], self.offsets[members[-1][0] + 1]
                groups.append(_Group(start, stop, members[0][1]))
        return groups

    @cached_property
    def _buckets(self) -> list[_Bucket]:
        """Neighbouring segments whose lengths differ by less than two times are padded together."""
        buckets: list[_Bucket] = []
        run: list[int] = []
        for number in range(len(self.segments)):
            lengths = [len(self.segments[s].tokens) for s in (*run, number)]
            tails = [self.segments[s].tail_length for s in (*run, number)]
            if run and (max(lengths) > 2 * min(lengths) + 8 or max(tails) > 2 * min(tails) + 8):
                buckets.append(self._new_bucket(run))
                run = []
            run.append(number)
        buckets.append(self._new_bucket(run))
        return buckets

    def _new_bucket(self, run: list[int]) -> _Bucket:
        start, stop = self.offsets[run[0]], self.offsets[run[-1] + 1]
        width = max(len(self.segments[s].tokens) for s in run)
        if stop - start == width * len(run):
            return _Bucket(tuple(run), start, stop, width, None, None)
        begins = torch.tensor([self.offsets[s] for s in run], device=self.device)[:, None]
        ends = torch.tensor([self.offsets[s + 1] for s in run], device=self.device)[:, None]
        padded = begins + torch.arange(width, device=self.device)
        cells = (padded < ends).reshape(-1).nonzero()[:, 0]
        return _Bucket(tuple(run), start, stop, width, torch.minimum(padded, ends - 1), cells)

    def _tail_mask(self, bucket: _Bucket, stored: int, window: int | None) -> Tensor | None:
        """Additive [S, 1, width, stored + width], or None where plain causality says it all."""
        key = ("tail", bucket.segments, window)
        if key not in self._masks:
            if not stored and (window is None or bucket.width <= window):
                self._masks[key] = None
            else:
                self._masks[key] = self._make_tail_mask(bucket, stored, window)
        return self._masks[key]

    def _make_tail_mask(self, bucket: _Bucket, stored: int, window: int | None) -> Tensor:
        tails = torch.tensor(
            [self.segments[s].tail_length for s in bucket.segments], device=self.device
        )
        queries = torch.arange(bucket.width, device=self.device)[:, None]
        keys = torch.arange(-stored, bucket.width, device=self.device)[None]
        distance = (queries - keys)[None]
        visible = (distance >= 0) & (keys[None] >= -tails[:, None, None])
        if window is not None:
            visible = visible & (distance < window)
        return torch.where(visible, 0.0, MASKED)[:, None]

    def _prefix_mask(self, window: int | None, group: _Group, groups: int) -> Tensor | None:
        """Additive [1, 1, groups · n, P], or None if no query's window begins after the prompt's first token."""
        if window is None:
            return None
        key = ("prefix", group.start, window)
        if key not in self._masks:
            positions = torch.arange(group.segment.prefix_length, device=self.device)
            distance = self.positions[group.start : group.stop, None] - positions
            mask = None
            if bool((distance >= window).any()):
                mask = torch.where(distance < window, 0.0, MASKED).repeat(groups, 1)[None, None]
            self._masks[key] = mask
        return self._masks[key]


class _FusedExtend:
    """What :class:`ExtendPlan` attends to, as two calls of a fused kernel a layer: one over the prompts of all groups,
    and one of all segments over their tails and their new tokens."""

    def __init__(
        self, segments: Sequence[ExtendSegment], groups: Sequence[_Group], device: torch.device
    ) -> None:
        self._segments = segments
        self._device = device
        self._new = [len(segment.tokens) for segment in segments]
        self._counts = [group.stop - group.start for group in groups]
        self._index = None
        if sum(self._counts) < sum(self._new):
            places = [place for group in groups for place in range(group.start, group.stop)]
            self._index = upload(places, device)
        prompts = [group.segment for group in groups]
        self._prompts = PromptGroups(
            [segment.prefix for segment in prompts],
            [segment.prefix_length for segment in prompts],
            self._counts,
            device,
        )
        self._own_spans: dict[int, Spans] = {}

    def attend(
        self,
        fused: FusedAttention,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: AttentionParams,
    ) -> Tensor:
        """See :class:`~preftilt.engines.transformers.attention.AttentionPlan`."""
        own = sink(self._over_own(fused, layer, q, k, v, shape.scale), shape.sinks)
        if not self._counts:
            return own[0]
        index = self._index
        if index is None:
            return merge(self._prompts.attend(fused, layer, q, shape.scale), own)
        shared = self._prompts.attend(fused, layer, q[:, index], shape.scale)
        return own[0].index_copy(0, index, merge(shared, (own[0][index], own[1][index])))

    def _over_own(
        self, fused: FusedAttention, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """[M, H, Dv] and [M, H]: causal, but for single tokens, which see all."""
        k, v = self._after_tails(layer, 0, k), self._after_tails(layer, 1, v)
        single = max(self._new) == 1
        times = q.shape[0] // k.shape[1] if single else 1
        if times not in self._own_spans:
            lengths = [segment.tail_length + len(segment.tokens) for segment in self._segments]
            self._own_spans[times] = Spans(
                starts(self._new, self._device, times),
                starts(lengths, self._device),
                times * max(self._new),
                max(lengths),
            )
        spans = self._own_spans[times]
        if single:
            return unfold(*fused(fold(q, k.shape[1]), k, v, spans, scale), q.shape[1])
        return fused(q.transpose(0, 1), k, v, spans, scale, causal=True)

    def _after_tails(self, layer: int, kind: int, new: Tensor) -> Tensor:
        """Keys (``kind`` 0) or values (1) of every segment's tail and new tokens, end to end: [S, Hkv, D]."""
        tokens = new.transpose(0, 1)
        if not any(segment.tail_length for segment in self._segments):
            return tokens
        parts: list[Tensor] = []
        for segment, own in zip(self._segments, tokens.split(self._new), strict=True):
            if segment.tail_length:
                parts.append(segment.tail[layer][kind].transpose(0, 1))
            parts.append(own)
        return torch.cat(parts)


def _readers(segments: Sequence[ExtendSegment]) -> tuple[Reader | None, ...] | None:
    """The reader of every packed token; None if all are the base model."""
    if all(segment.reader is None for segment in segments):
        return None
    return tuple(segment.reader for segment in segments for _ in segment.tokens)


def _shifts(segments: Sequence[ExtendSegment], device: torch.device) -> Tensor | None:
    """[3, M] for all packed tokens; None where every position id equals the token's index."""
    if all(segment.shifts is None for segment in segments):
        return None
    none = torch.zeros(3, 1, dtype=torch.long)
    parts = [
        (none if segment.shifts is None else segment.shifts).expand(3, len(segment.tokens))
        for segment in segments
    ]
    return torch.cat(parts, dim=1).to(device)


def _contiguous_copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _stacked(tails: list[Tensor | None], length: int, like: Tensor) -> Tensor:
    """Cached tails [h, T, D] as one block [S, h, length, D], aligned right; the padding is masked."""
    block = like.new_zeros(like.shape[0], like.shape[1], length, like.shape[3])
    for row, tail in enumerate(tails):
        if tail is not None:
            block[row, :, length - tail.shape[1] :] = tail
    return block
