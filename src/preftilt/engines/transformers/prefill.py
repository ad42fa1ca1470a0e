"""Filling caches before anything can be drawn: prompts, and response prefixes that no stored tail covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from preftilt.engines.transformers.extend import ExtendPlan, Segment
from preftilt.engines.transformers.prefix_cache import Layers, Prompt, Store, Tail, join
from preftilt.engines.transformers.runner import Runner
from preftilt.types import Reader, Tokens


@dataclass(frozen=True, eq=False, slots=True)
class PromptGrowth:
    """A prompt on its way into the store: its first ``done`` tokens have been forwarded.

    shifts: [3, P + 1], as ``Sight.shifts`` tells them.
    """

    tokens: Tokens
    layers: Layers
    done: int = 0
    reader: Reader | None = None
    shifts: Tensor | None = None

    def segment(self, budget: int) -> Segment:
        """The next stretch, of at most ``budget`` tokens."""
        new = self.tokens[self.done : self.done + budget]
        shifts = None if self.shifts is None else self.shifts[:, self.done : self.done + len(new)]
        return Segment(new, self.layers, self.done, {}, 0, self.reader, shifts)

    def grown(self, plan: ExtendPlan, number: int) -> PromptGrowth:
        """With what was forwarded as the plan's segment ``number``."""
        done = self.done + len(plan.segments[number].tokens)
        layers = join(self.layers, plan.layers(number))
        return replace(self, layers=layers, done=done)

    def finished(self, logits: Tensor) -> Prompt:
        """The cache, when nothing is missing; ``logits`` [V] follow its last token."""
        shift = 0 if self.shifts is None else int(self.shifts[0, -1])
        return Prompt(self.tokens, self.layers, logits.clone(), self.reader, shift)


@dataclass(frozen=True, eq=False, slots=True)
class TailGrowth:
    """Response tokens to be forwarded once, for all the rows that continue them."""

    prompt: Prompt
    tokens: Tokens
    layers: Layers
    done: int

    @property
    def reader(self) -> Reader | None:
        """Whose cache it is."""
        return self.prompt.reader

    def segment(self, budget: int) -> Segment:
        """As :meth:`PromptGrowth.segment`."""
        new = self.tokens[self.done : self.done + budget]
        prompt = self.prompt
        return Segment(
            new, prompt.layers, prompt.length, self.layers, self.done, prompt.reader, prompt.shifts
        )

    def grown(self, plan: ExtendPlan, number: int) -> TailGrowth:
        """As :meth:`PromptGrowth.grown`."""
        done = self.done + len(plan.segments[number].tokens)
        return TailGrowth(self.prompt, self.tokens, plan.layers(number), done)

    def finished(self, logits: Tensor) -> Tail:
        """As :meth:`PromptGrowth.finished`."""
        return Tail(self.tokens, self.layers, logits.clone())


Growth = PromptGrowth | TailGrowth


def begin_tail(prompt: Prompt, prefix: Tokens, known: Tail | None) -> TailGrowth:
    """Start from a stored tail that begins ``prefix``; its own last token goes again if its logits are needed."""
    if known is None:
        return TailGrowth(prompt, prefix, {}, 0)
    done = min(len(known.tokens), len(prefix) - 1)
    layers = {i: (k[:, :done], v[:, :done]) for i, (k, v) in known.layers.items()} if done else {}
    return TailGrowth(prompt, prefix, layers, done)


def begin_prompt(
    tokens: Tokens, reader: Reader | None, store: Store, runner: Runner
) -> PromptGrowth:
    """Start from the longest beginning that a stored prompt of the same reader shares.

    Raises :class:`~preftilt.errors.EngineError` if an image of the prompt is no longer held.
    """
    shifts = None if runner.sight is None else runner.sight.shifts(tokens)
    shared, layers = store.longest_shared(tokens, reader)
    runner.stats.shared_tokens += shared
    begun = {i: (k[:, :shared], v[:, :shared]) for i, (k, v) in layers.items()}
    return PromptGrowth(tokens, begun, shared, reader, shifts)


def share(growths: Iterable[Growth], budget: int) -> list[Segment]:
    """What a forward of up to ``budget`` tokens holds: a segment for each of the first growths, in order."""
    segments: list[Segment] = []
    for growth in growths:
        if budget <= 0:
            break
        segments.append(growth.segment(budget))
        budget -= len(segments[-1].tokens)
    return segments


def grow(
    growths: Sequence[Growth], segments: Sequence[Segment], runner: Runner, store: Store
) -> list[Growth | Prompt | Tail]:
    """Forward one segment of each growth; what each has become, a cache in the store if nothing is missing.

    All or nothing: after a failure the growths and the store are as they were.
    """
    plan = ExtendPlan(segments, runner.device)
    last = torch.tensor([stop - 1 for stop in plan.offsets[1:]], device=runner.device)
    logits = runner.logits(plan, plan.tokens, last)
    results: list[Growth | Prompt | Tail] = []
    for number, growth in enumerate(growths):
        grown = growth.grown(plan, number)
        complete = grown.done == len(grown.tokens)
        results.append(grown.finished(logits[number]) if complete else grown)
    for growth, segment, result in zip(growths, segments, results, strict=True):
        _count_and_keep(growth, len(segment.tokens), result, runner, store)
    return results


def _count_and_keep(
    growth: Growth, new: int, result: Growth | Prompt | Tail, runner: Runner, store: Store
) -> None:
    if isinstance(growth, PromptGrowth):
        runner.stats.prompt_tokens += new
    else:
        runner.stats.response_tokens += new
        if isinstance(result, Tail):
            store.add_tail(growth.prompt, result)
    if isinstance(result, Prompt):
        store.add_prompt(result)
