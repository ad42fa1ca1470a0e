"""Decode forwards, one token a row, with the rows' tails in preallocated buffers.

Row ``r`` of the buffers is row ``r`` of the batch. Rows of one prompt form a group and read its cache once; a row may
instead hold a copy of its prompt in its own tail, which is cheaper for a short prompt that no other row shares.

A plan lasts for as long as the batch has the same rows: from token to token it only counts on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from preftilt.engines.transformers.attention import MASKED, AttentionParams, merge, part, sink
from preftilt.engines.transformers.device import upload
from preftilt.engines.transformers.fused import (
    FusedAttention,
    PromptGroups,
    Spans,
    fold,
    unfold,
)
from preftilt.engines.transformers.prefix_cache import CachedPrompt, Layers
from preftilt.types import Reader

GROWTH_STEP = 64
"""Buffers grow by at least this many tokens, and then by half, so that growing is rare."""


@dataclass(slots=True)
class TailBuffers:
    """Tails of up to ``rows`` rows: for every layer keys [rows, width, Hkv, D] and values [rows, width, Hkv, Dv].

    They begin as zeros: what is masked is still multiplied (by zero), and memory as it comes may hold NaN.
    """

    rows: int
    width: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def reserve(self, rows: int, width: int) -> None:
        """Grow to at least ``rows`` rows of ``width`` tokens."""
        if rows <= self.rows and width <= self.width:
            return
        if rows > self.rows:
            self.rows = max(rows, self.rows + self.rows // 2)
        if width > self.width:
            self.width = max(width, self.width + max(GROWTH_STEP, self.width // 2))
        for layer, (k, v) in self.layers.items():
            self.layers[layer] = (self._grown(k), self._grown(v))

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_zeros(self.rows, self.width, *old.shape[2:])
        new[: old.shape[0], : old.shape[1]] = old
        return new

    def layer_buffers(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's buffers, allocated at its first forward: ``k`` [Hkv, M, D], ``v`` [Hkv, M, Dv]."""
        if layer not in self.layers:
            self.layers[layer] = (
                k.new_zeros(self.rows, self.width, k.shape[0], k.shape[2]),
                v.new_zeros(self.rows, self.width, v.shape[0], v.shape[2]),
            )
        return self.layers[layer]

    def write(self, row: int, start: int, tail: Layers) -> None:
        """Copy ``tail`` into a row, starting at token ``start``."""
        for layer, (k, v) in tail.items():
            keys, values = self.layer_buffers(layer, k, v)
            keys[row, start : start + k.shape[1]] = k.transpose(0, 1)
            values[row, start : start + v.shape[1]] = v.transpose(0, 1)

    def read(self, row: int, start: int, stop: int) -> Layers:
        """A copy of tokens ``start`` to ``stop`` of a row's tail."""
        return {
            layer: (
                k[row, start:stop].transpose(0, 1).contiguous().clone(),
                v[row, start:stop].transpose(0, 1).contiguous().clone(),
            )
            for layer, (k, v) in self.layers.items()
        }

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` tokens over another row."""
        for k, v in self.layers.values():
            k[target, :length] = k[source, :length]
            v[target, :length] = v[source, :length]


@dataclass(frozen=True, slots=True)
class RowPosition:
    """A row's prompt, if shared (None if its tail holds a copy), and the number of tokens in its tail.

    shift: :attr:`CachedPrompt.shift` of its prompt.
    """

    prompt: CachedPrompt | None
    length: int
    shift: int = 0

    @property
    def position(self) -> int:
        """The absolute position of the row's next token."""
        return self.length + (self.prompt.length if self.prompt else 0)


class DecodePlan:
    """Attention of one new token per row: over its group's prompt, its own tail, and itself.

    ``readers``: one per row; None if all are the base model.
    """

    def __init__(
        self,
        buffers: TailBuffers,
        places: list[RowPosition],
        device: torch.device,
        readers: tuple[Reader | None, ...] | None = None,
    ) -> None:
        self.readers = readers
        self.buffers = buffers
        self.rows = len(places)
        self.device = device
        lengths = [place.length for place in places]
        self.longest = max(lengths) + 1
        self._reach = max(place.position for place in places) + 1
        self.positions = upload([place.position for place in places], device)
        self.shifts = _shifts(places, device)
        self._lengths = upload(lengths, device)
        self._numbers = torch.arange(self.rows, device=device)
        self._even = min(lengths) == max(lengths)
        self._groups, order = _groups(places)
        sorted_already = not order or order == list(range(self.rows))
        self._order = None if sorted_already else upload(order, device)
        self._prompts = PromptGroups(
            [prompt.layers for prompt, _ in self._groups],
            [prompt.length for prompt, _ in self._groups],
            [count for _, count in self._groups],
            device,
        )
        self._tail_spans: dict[int, Spans] = {}
        self._masks: dict[object, Tensor | None] = {}
        self._begin_token()

    def advance(self) -> None:
        """Go on to the next token of every row; the last one is in its tail now."""
        self.longest += 1
        self._reach += 1
        self.positions += 1
        self._lengths += 1
        self._masks.clear()
        self._tail_spans.clear()
        self._begin_token()

    def _begin_token(self) -> None:
        """See to it that the buffers have room for the new token of every row, and where."""
        self.buffers.reserve(self.rows, self.longest)
        self._write = torch.add(self._lengths, self._numbers, alpha=self.buffers.width)

    def tokens_of(self, last: list[int]) -> Tensor:
        """The rows' input tokens [M] on the plan's device."""
        return upload(last, self.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams) -> Tensor:
        """See :class:`~preftilt.engines.transformers.attention.AttentionPlan`; M is the number of rows."""
        tail = self._over_tails(layer, q, k, v, shape)
        if not self._groups:
            return tail[0]
        if self._order is None:
            return merge(self._over_prompts(layer, q, shape), tail)
        rows = self._order
        shared = merge(self._over_prompts(layer, q[:, rows], shape), (tail[0][rows], tail[1][rows]))
        return tail[0].index_copy(0, rows, shared)

    def _over_tails(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, shape: AttentionParams
    ) -> tuple[Tensor, Tensor]:
        """[M, H, Dv] and [M, H]: every row's token over its own tail and itself."""
        keys, values = self.buffers.layer_buffers(layer, k, v)
        _write_at(keys, self._write, k)
        _write_at(values, self._write, v)
        fused = shape.kernel(q, v, self._reach)
        if fused is not None:
            return sink(self._fused_over_tails(fused, q, keys, values, shape.scale), shape.sinks)
        heads, groups = k.shape[0], q.shape[0] // k.shape[0]
        folded = q.reshape(heads, groups, self.rows, q.shape[-1]).permute(2, 0, 1, 3)
        keys = keys[: self.rows, : self.longest].transpose(1, 2)
        values = values[: self.rows, : self.longest].transpose(1, 2)
        out, lse = part(folded, keys, values, shape, mask=self._tail_mask(shape.window))
        out, lse = out.reshape(self.rows, q.shape[0], -1), lse.reshape(self.rows, q.shape[0])
        return sink((out, lse), shape.sinks)

    def _over_prompts(self, layer: int, q: Tensor, shape: AttentionParams) -> tuple[Tensor, Tensor]:
        """[M', H, Dv] and [M', H] of the rows in groups, in group order: ``q`` [H, M', D]."""
        value = self._groups[0][0].layers[layer][1]
        fused = shape.kernel(q, value, self._reach)
        if fused is not None:
            return self._prompts.attend(fused, layer, q, shape.scale)
        outs: list[Tensor] = []
        sums: list[Tensor] = []
        start = 0
        for number, (prompt, count) in enumerate(self._groups):
            key, value = prompt.layers[layer]
            heads, groups = key.shape[0], q.shape[0] // key.shape[0]
            folded = q[:, start : start + count].reshape(1, heads, groups * count, q.shape[-1])
            mask = self._prompt_mask(number, start, count, groups, shape.window)
            out, lse = part(folded, key[None], value[None], shape, mask=mask)
            outs.append(out.reshape(q.shape[0], count, -1))
            sums.append(lse.reshape(q.shape[0], count))
            start += count
        out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
        lse = sums[0] if len(sums) == 1 else torch.cat(sums, dim=1)
        return out.transpose(0, 1), lse.transpose(0, 1)

    def _fused_over_tails(
        self, fused: FusedAttention, q: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`_over_tails`: every row is a sequence, whose keys are the first of its row of the buffers."""
        heads, width = keys.shape[2], self.buffers.width
        times = q.shape[0] // heads
        if times not in self._tail_spans:
            begins = torch.arange(self.rows + 1, dtype=torch.int32, device=self.device)
            used = (self._lengths + 1).to(torch.int32)
            self._tail_spans[times] = Spans(
                begins * times, begins * width, times, self.longest, used
            )
        k, v = (buffer[: self.rows].flatten(0, 1) for buffer in (keys, values))
        out, lse = fused(fold(q, heads), k, v, self._tail_spans[times], scale)
        return unfold(out, lse, self.rows)

    def _tail_mask(self, window: int | None) -> Tensor | None:
        """Additive [M, 1, 1, longest]; None if all tails are equally long and wholly visible."""
        if self._even and (window is None or self.longest <= window):
            return None
        key = ("tail", window)
        if key not in self._masks:
            distance = self._lengths[:, None] - torch.arange(self.longest, device=self.device)
            visible = distance >= 0
            if window is not None:
                visible = visible & (distance < window)
            self._masks[key] = torch.where(visible, 0.0, MASKED)[:, None, None]
        return self._masks[key]

    def _prompt_mask(
        self, number: int, start: int, count: int, groups: int, window: int | None
    ) -> Tensor | None:
        """Additive [1, 1, groups · count, P] of one group, or None if no window ends inside the prompt."""
        if window is None:
            return None
        key = (number, window)
        if key not in self._masks:
            rows = slice(start, start + count)
            positions = (
                self.positions[rows] if self._order is None else self.positions[self._order[rows]]
            )
            prompt = self._groups[number][0]
            distance = positions[:, None] - torch.arange(prompt.length, device=self.device)
            mask = (
                torch.where(distance < window, 0.0, MASKED)
                if bool((distance >= window).any())
                else None
            )
            self._masks[key] = None if mask is None else mask.repeat(groups, 1)[None, None]
        return self._masks[key]


def _shifts(places: list[RowPosition], device: torch.device) -> Tensor | None:
    """[3, M] for all rows; None where every position id equals the token's index."""
    if not any(place.shift for place in places):
        return None
    return upload([place.shift for place in places], device).expand(3, -1)


def _write_at(buffer: Tensor, positions: Tensor, new: Tensor) -> None:
    """Write ``new`` [h, M, D] at flat (row, token) places ``positions`` [M] of ``buffer`` [rows, width, h, D]."""
    # Not index_copy_, which goes over all rows once for every element of a token.
    buffer.view(-1, *buffer.shape[2:])[positions] = new.transpose(0, 1)


def _groups(places: list[RowPosition]) -> tuple[list[tuple[CachedPrompt, int]], list[int]]:
    """Prompts with their numbers of rows, and the rows in group order."""
    members: dict[int, tuple[CachedPrompt, list[int]]] = {}
    for row, place in enumerate(places):
        if place.prompt is not None:
            members.setdefault(id(place.prompt), (place.prompt, []))[1].append(row)
    groups = [(prompt, len(rows)) for prompt, rows in members.values()]
    return groups, [row for _, rows in members.values() for row in rows]
