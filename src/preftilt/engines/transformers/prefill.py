"""Prefilling: prompts, and response prefixes that no cached tail covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from preftilt.engines.transformers.device import upload
from preftilt.engines.transformers.extend import ExtendPlan, ExtendSegment
from preftilt.engines.transformers.prefix_cache import (
    CachedPrompt,
    CachedTail,
    Layers,
    PrefixCache,
    concat_layers,
)
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.types import Reader, Tokens


@dataclass(frozen=True, eq=False, slots=True)
class PromptPrefill:
    """A prompt in prefill: its first ``done`` tokens have been forwarded.

    shifts: [3, P + 1], by ``ImageEmbedder.shifts``.
    """

    tokens: Tokens
    layers: Layers
    done: int = 0
    reader: Reader | None = None
    shifts: Tensor | None = None

    def segment(self, budget: int) -> ExtendSegment:
        """The next chunk, of at most ``budget`` tokens."""
        new = self.tokens[self.done : self.done + budget]
        shifts = None if self.shifts is None else self.shifts[:, self.done : self.done + len(new)]
        return ExtendSegment(new, self.layers, self.done, {}, 0, self.reader, shifts)

    def advanced(self, plan: ExtendPlan, number: int) -> PromptPrefill:
        """The prefill after the plan's segment ``number`` was forwarded."""
        done = self.done + len(plan.segments[number].tokens)
        layers = concat_layers(self.layers, plan.layers(number))
        return replace(self, layers=layers, done=done)

    def finished(self, logits: Tensor) -> CachedPrompt:
        """The finished prompt; ``logits`` [V] follow its last token."""
        shift = 0 if self.shifts is None else int(self.shifts[0, -1])
        return CachedPrompt(self.tokens, self.layers, logits.clone(), self.reader, shift)


@dataclass(frozen=True, eq=False, slots=True)
class TailPrefill:
    """A response prefix in prefill, computed once for all rows that continue it."""

    prompt: CachedPrompt
    tokens: Tokens
    layers: Layers
    done: int

    @property
    def reader(self) -> Reader | None:
        """The prompt's reader."""
        return self.prompt.reader

    def segment(self, budget: int) -> ExtendSegment:
        """As :meth:`PromptPrefill.segment`."""
        new = self.tokens[self.done : self.done + budget]
        prompt = self.prompt
        return ExtendSegment(
            new, prompt.layers, prompt.length, self.layers, self.done, prompt.reader, prompt.shifts
        )

    def advanced(self, plan: ExtendPlan, number: int) -> TailPrefill:
        """As :meth:`PromptPrefill.advanced`."""
        done = self.done + len(plan.segments[number].tokens)
        return TailPrefill(self.prompt, self.tokens, plan.layers(number), done)

    def finished(self, logits: Tensor) -> CachedTail:
        """As :meth:`PromptPrefill.finished`."""
        return CachedTail(self.tokens, self.layers, logits.clone())


Prefill = PromptPrefill | TailPrefill


def start_tail(prompt: CachedPrompt, prefix: Tokens, known: CachedTail | None) -> TailPrefill:
    """Start from a cached tail that begins ``prefix``; its last token is recomputed if its logits are missing."""
    if known is None:
        return TailPrefill(prompt, prefix, {}, 0)
    done = min(len(known.tokens), len(prefix) - 1)
    layers = {i: (k[:, :done], v[:, :done]) for i, (k, v) in known.layers.items()} if done else {}
    return TailPrefill(prompt, prefix, layers, done)


def start_prompt(
    tokens: Tokens, reader: Reader | None, cache: PrefixCache, runner: ModelRunner
) -> PromptPrefill:
    """Start from the longest prefix that a cached prompt of the same reader shares.

    Raises :class:`~preftilt.errors.EngineError` if an image of the prompt was evicted.
    """
    shifts = None if runner.embedder is None else runner.embedder.shifts(tokens)
    shared, layers = cache.longest_shared(tokens, reader)
    runner.stats.shared_tokens += shared
    shared_layers = {i: (k[:, :shared], v[:, :shared]) for i, (k, v) in layers.items()}
    return PromptPrefill(tokens, shared_layers, shared, reader, shifts)


def next_segments(prefills: Iterable[Prefill], budget: int) -> list[ExtendSegment]:
    """The segments of a forward of up to ``budget`` tokens: one for each of the first prefills, in order."""
    segments: list[ExtendSegment] = []
    for prefill in prefills:
        if budget <= 0:
            break
        segments.append(prefill.segment(budget))
        budget -= len(segments[-1].tokens)
    return segments


def forward_segments(
    prefills: Sequence[Prefill],
    segments: Sequence[ExtendSegment],
    runner: ModelRunner,
    cache: PrefixCache,
) -> list[Prefill | CachedPrompt | CachedTail]:
    """Forward one segment of each prefill; returns the advanced prefills, or their caches where they are finished.

    All or nothing: after a failure the prefills and the cache are unchanged.
    """
    plan = ExtendPlan(segments, runner.device)
    last = upload([stop - 1 for stop in plan.offsets[1:]], runner.device)
    logits = runner.logits(plan, plan.tokens, last)
    results: list[Prefill | CachedPrompt | CachedTail] = []
    for number, prefill in enumerate(prefills):
        advanced = prefill.advanced(plan, number)
        complete = advanced.done == len(advanced.tokens)
        results.append(advanced.finished(logits[number]) if complete else advanced)
    for prefill, segment, result in zip(prefills, segments, results, strict=True):
        _count_and_store(prefill, len(segment.tokens), result, runner, cache)
    return results


def _count_and_store(
    prefill: Prefill,
    new: int,
    result: Prefill | CachedPrompt | CachedTail,
    runner: ModelRunner,
    cache: PrefixCache,
) -> None:
    if isinstance(prefill, PromptPrefill):
        runner.stats.prompt_tokens += new
    else:
        runner.stats.response_tokens += new
        if isinstance(result, CachedTail):
            cache.add_tail(prefill.prompt, result)
    if isinstance(result, CachedPrompt):
        cache.add_prompt(result)
