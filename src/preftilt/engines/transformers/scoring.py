"""Computes scores: log-probs of given completions. Only their own tokens are forwarded, of many requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from preftilt.engines.transformers.extend import ExtendPlan, ExtendSegment
from preftilt.engines.transformers.jobs import PrefixState, ScoreJob
from preftilt.engines.transformers.prefix_cache import CachedPrompt, CachedTail, PrefixCache
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.sampler import logprobs_of
from preftilt.types import Tokens


@dataclass(frozen=True, slots=True)
class PreparedScore:
    """A score request whose prompt and prefix are cached.

    The first token's log-prob comes from the cached logits; all tokens but the last are forwarded for those of the
    others.
    """

    job: ScoreJob

    @property
    def new(self) -> Tokens:
        """The tokens to forward."""
        return self.job.request.completion[:-1]

    @property
    def state(self) -> PrefixState:
        [state] = self.job.prefix_states
        return state

    @property
    def prompt(self) -> CachedPrompt:
        return self.state.cache


def score(
    batch: Sequence[PreparedScore], runner: ModelRunner, cache: PrefixCache
) -> list[np.ndarray]:
    """Log-probs (float64) of every request's completion."""
    first = [_first(prepared) for prepared in batch]
    order = [i for i, prepared in enumerate(batch) if prepared.new]
    order.sort(key=lambda i: (id(batch[i].prompt), len(batch[i].new)))
    rest: dict[int, np.ndarray] = {}
    if order:
        rest = _forward([batch[i] for i in order], order, runner, cache)
    runner.stats.scored += sum(len(prepared.job.request.completion) for prepared in batch)
    return [np.concatenate([logprob, rest.get(i, np.empty(0))]) for i, logprob in enumerate(first)]


def _first(prepared: PreparedScore) -> np.ndarray:
    """The log-prob [1] of the completion's first token."""
    logits = prepared.state.logits
    token = torch.tensor(prepared.job.request.completion[:1], device=logits.device)
    return logprobs_of(logits[None], token).cpu().numpy()


def _forward(
    batch: Sequence[PreparedScore],
    numbers: Sequence[int],
    runner: ModelRunner,
    cache: PrefixCache,
) -> dict[int, np.ndarray]:
    keep = any(prepared.job.request.keep for prepared in batch)
    plan = ExtendPlan([segment(prepared) for prepared in batch], runner.device, capture=keep)
    device = runner.device
    targets = torch.tensor(
        [t for prepared in batch for t in prepared.job.request.completion[1:]], device=device
    )
    logprobs = runner.logprobs(plan, plan.tokens, targets)
    runner.stats.response_tokens += len(plan.tokens)
    for number, prepared in enumerate(batch):
        if prepared.job.request.keep:
            request = prepared.job.request
            cache.add_tail(
                prepared.prompt,
                CachedTail((request.prefix + request.completion)[:-1], plan.layers(number)),
            )
    pieces = np.split(logprobs.cpu().numpy(), plan.offsets[1:-1])
    return dict(zip(numbers, pieces, strict=True))


def segment(prepared: PreparedScore) -> ExtendSegment:
    """The segment of the tokens to forward, after the cached prompt and tail."""
    tail = prepared.state.tail
    layers, length = (tail.layers, len(tail.tokens)) if tail else ({}, 0)
    prompt = prepared.prompt
    return ExtendSegment(
        prepared.new, prompt.layers, prompt.length, layers, length, prompt.reader, prompt.shifts
    )
