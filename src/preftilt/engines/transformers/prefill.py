"""Filling caches before anything can be drawn: prompts, and response prefixes that no stored tail covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from preftilt.engines.transformers.caches import Layers, Prompt, Store, Tail, join
from preftilt.engines.transformers.extend import ExtendPlan, Segment
from preftilt.engines.transformers.runner import Runner
from preftilt.types import Tokens


@dataclass(eq=False, slots=True)
class PromptGrowth:
    """A prompt on its way into the store: its first ``done`` tokens have been forwarded."""

    tokens: Tokens
    layers: Layers
    done: int = 0

    def segment(self, budget: int) -> Segment:
        """The next stretch, of at most ``budget`` tokens."""
        return Segment(self.tokens[self.done : self.done + budget], self.layers, self.done, {}, 0)

    def absorb(self, plan: ExtendPlan, number: int) -> bool:
        """Take over what was forwarded; True when nothing is missing."""
        self.layers = join(self.layers, plan.layers(number))
        self.done += len(plan.segments[number].tokens)
        return self.done == len(self.tokens)


@dataclass(eq=False, slots=True)
class TailGrowth:
    """Response tokens to be forwarded once, for all the rows that continue them."""

    prompt: Prompt
    tokens: Tokens
    layers: Layers
    done: int

    def segment(self, budget: int) -> Segment:
        """As :meth:`PromptGrowth.segment`."""
        new = self.tokens[self.done : self.done + budget]
        return Segment(new, self.prompt.layers, self.prompt.length, self.layers, self.done)

    def absorb(self, plan: ExtendPlan, number: int) -> bool:
        """As :meth:`PromptGrowth.absorb`."""
        self.layers = plan.layers(number)
        self.done += len(plan.segments[number].tokens)
        return self.done == len(self.tokens)


Growth = PromptGrowth | TailGrowth


def begin_tail(prompt: Prompt, prefix: Tokens, known: Tail | None) -> TailGrowth:
    """Start from a stored tail that begins ``prefix``; its own last token goes again if its logits are needed."""
    if known is None:
        return TailGrowth(prompt, prefix, {}, 0)
    done = min(len(known.tokens), len(prefix) - 1)
    layers = {i: (k[:, :done], v[:, :done]) for i, (k, v) in known.layers.items()} if done else {}
    return TailGrowth(prompt, prefix, layers, done)


def begin_prompt(tokens: Tokens, store: Store, runner: Runner) -> PromptGrowth:
    """Start from the longest beginning that a stored prompt shares."""
    shared, layers = store.longest_shared(tokens)
    runner.stats.shared_tokens += shared
    return PromptGrowth(
        tokens, {i: (k[:, :shared], v[:, :shared]) for i, (k, v) in layers.items()}, shared
    )


def grow(
    growths: Sequence[Growth], budget: int, runner: Runner, store: Store
) -> list[Prompt | Tail | None]:
    """One forward of up to ``budget`` tokens over the first growths; what was completed, in their order.

    Growths beyond the budget are not in the result.
    """
    chosen: list[Growth] = []
    segments: list[Segment] = []
    for growth in growths:
        if budget <= 0:
            break
        segments.append(growth.segment(budget))
        chosen.append(growth)
        budget -= len(segments[-1].tokens)
    plan = ExtendPlan(segments, runner.device)
    last = torch.tensor([stop - 1 for stop in plan.offsets[1:]], device=runner.device)
    logits = runner.logits(plan, plan.tokens, last)
    results: list[Prompt | Tail | None] = []
    for number, growth in enumerate(chosen):
        new = len(segments[number].tokens)
        complete = growth.absorb(plan, number)
        if isinstance(growth, PromptGrowth):
            runner.stats.prompt_tokens += new
            made = Prompt(growth.tokens, growth.layers, logits[number].clone())
            if complete:
                store.add_prompt(made)
        else:
            runner.stats.response_tokens += new
            made = Tail(growth.tokens, growth.layers, logits[number].clone())
            if complete:
                store.add_tail(growth.prompt, made)
        results.append(made if complete else None)
    return results
