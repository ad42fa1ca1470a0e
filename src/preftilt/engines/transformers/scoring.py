"""Log-probs of given continuations: only their own tokens are forwarded, those of many requests at once."""

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
    """One request whose caches are there.

    The completion's first token is judged by the logits that follow prompt and prefix; all but the last are forwarded,
    and judge the token behind them.
    """

    job: ScoreJob

    @property
    def new(self) -> Tokens:
        """The tokens to forward."""
        return self.job.request.completion[:-1]

    @property
    def ground(self) -> PrefixState:
        [ground] = self.job.grounds
        return ground

    @property
    def prompt(self) -> CachedPrompt:
        return self.ground.cache


def score(
    readings: Sequence[PreparedScore], runner: ModelRunner, store: PrefixCache
) -> list[np.ndarray]:
    """Log-probs (float64) of every reading's completion."""
    first = [_first(r) for r in readings]
    order = [i for i, r in enumerate(readings) if r.new]
    order.sort(key=lambda i: (id(readings[i].prompt), len(readings[i].new)))
    rest: dict[int, np.ndarray] = {}
    if order:
        rest = _forward([readings[i] for i in order], order, runner, store)
    runner.stats.scored += sum(len(r.job.request.completion) for r in readings)
    return [np.concatenate([logprob, rest.get(i, np.empty(0))]) for i, logprob in enumerate(first)]


def _first(r: PreparedScore) -> np.ndarray:
    """The log-prob [1] of the completion's first token."""
    logits = r.ground.logits
    token = torch.tensor(r.job.request.completion[:1], device=logits.device)
    return logprobs_of(logits[None], token).cpu().numpy()


def _forward(
    readings: Sequence[PreparedScore],
    numbers: Sequence[int],
    runner: ModelRunner,
    store: PrefixCache,
) -> dict[int, np.ndarray]:
    keep = any(r.job.request.keep for r in readings)
    plan = ExtendPlan([segment(r) for r in readings], runner.device, capture=keep)
    device = runner.device
    targets = torch.tensor(
        [t for r in readings for t in r.job.request.completion[1:]], device=device
    )
    logprobs = runner.logprobs(plan, plan.tokens, targets)
    runner.stats.response_tokens += len(plan.tokens)
    for number, r in enumerate(readings):
        if r.job.request.keep:
            request = r.job.request
            store.add_tail(
                r.prompt,
                CachedTail((request.prefix + request.completion)[:-1], plan.layers(number)),
            )
    pieces = np.split(logprobs.cpu().numpy(), plan.offsets[1:-1])
    return dict(zip(numbers, pieces, strict=True))


def segment(r: PreparedScore) -> ExtendSegment:
    """The tokens to forward, behind the caches that are there."""
    tail = r.ground.tail
    layers, length = (tail.layers, len(tail.tokens)) if tail else ({}, 0)
    prompt = r.prompt
    return ExtendSegment(
        r.new, prompt.layers, prompt.length, layers, length, prompt.reader, prompt.shifts
    )
