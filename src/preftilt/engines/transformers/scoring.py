"""Computes scores: log-probs of given completions. Only their own tokens are forwarded, of many requests at once.

Under guided decoding, too: the logits of all views at every position are mixed by the decoder's own rule
(``sampler.guided``) and normalised, so this is the distribution that it would have drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from preftilt.engines.base import Mixture
from preftilt.engines.transformers.device import upload
from preftilt.engines.transformers.extend import ExtendPlan, ExtendSegment
from preftilt.engines.transformers.jobs import NormaliseJob, PrefixState, ScoreJob
from preftilt.engines.transformers.prefix_cache import CachedPrompt, CachedTail, PrefixCache
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.sampler import GuidanceRule, guided, logprobs_of
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
    first = torch.cat([_first(prepared) for prepared in batch])
    order = [i for i, prepared in enumerate(batch) if prepared.new]
    order.sort(key=lambda i: (id(batch[i].prompt), len(batch[i].new)))
    rest: dict[int, np.ndarray] = {}
    if order:
        rest = _forward([batch[i] for i in order], order, runner, cache)
    runner.stats.scored += sum(len(prepared.job.request.completion) for prepared in batch)
    firsts = first.cpu().numpy()
    return [
        np.concatenate([firsts[i : i + 1], rest.get(i, np.empty(0))]) for i in range(len(batch))
    ]


def _first(prepared: PreparedScore) -> Tensor:
    """The log-prob [1] of the completion's first token."""
    logits = prepared.state.logits
    return logprobs_of(logits[None], upload(prepared.job.request.completion[:1], logits.device))


def _forward(
    batch: Sequence[PreparedScore],
    numbers: Sequence[int],
    runner: ModelRunner,
    cache: PrefixCache,
) -> dict[int, np.ndarray]:
    keep = any(prepared.job.request.keep for prepared in batch)
    plan = ExtendPlan([segment(prepared) for prepared in batch], runner.device, capture=keep)
    targets = upload(
        [t for prepared in batch for t in prepared.job.request.completion[1:]], runner.device
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


def normalise(job: NormaliseJob, runner: ModelRunner) -> np.ndarray:
    """Log-probs [R, T] (float64) of the job's completion; its caches must be filled. One forward per model."""
    readings = [PreparedScore(part) for part in job.parts]
    completion = job.request.reads[0].completion
    first = torch.stack([view.state.logits for view in readings])[None]
    parts = [mixture_logprobs(first, job.request.mixtures, completion[:1])]
    if len(completion) > 1:
        parts.extend(_normalise_rest(readings, job.request.mixtures, runner))
    runner.stats.scored += len(completion)
    return np.concatenate(parts, axis=1)


def mixture_logprobs(logits: Tensor, mixtures: Sequence[Mixture], tokens: Tokens) -> np.ndarray:
    """Log-probs [R, n] of ``tokens`` [n] under every mixture of ``logits`` float32 [n, K, V]."""
    targets = upload(tokens, logits.device)
    rows = [
        logprobs_of(
            guided(
                logits.unbind(1), GuidanceRule(mixture.weights, mixture.mask, mixture.preferred)
            ),
            targets,
        )
        for mixture in mixtures
    ]
    return torch.stack(rows).cpu().numpy()


def _normalise_rest(
    readings: Sequence[PreparedScore], mixtures: Sequence[Mixture], runner: ModelRunner
) -> list[np.ndarray]:
    """Log-probs in pieces [R, n] of the tokens after the first, of :meth:`ModelRunner.positions_at_once` at a time."""
    tokens = readings[0].job.request.completion[1:]
    chunk = runner.positions_at_once(len(readings))
    starts = range(0, len(tokens), chunk)
    by_runner: dict[int, list[int]] = {}
    for number, view in enumerate(readings):
        by_runner.setdefault(id(runner.runner_of(view.state.reader)), []).append(number)
    order = [number for members in by_runner.values() for number in members]
    view_order = torch.tensor(
        [order.index(number) for number in range(len(order))], device=runner.device
    )
    streams = [
        _logits([readings[k] for k in members], starts, chunk, runner)
        for members in by_runner.values()
    ]
    return [
        mixture_logprobs(
            torch.cat(parts, dim=1)[:, view_order], mixtures, tokens[start : start + chunk]
        )
        for start, *parts in zip(starts, *streams, strict=True)
    ]


def _logits(
    readings: Sequence[PreparedScore], starts: range, chunk: int, runner: ModelRunner
) -> Iterator[Tensor]:
    """For every start, the logits [n, K, V] after the next ``chunk`` tokens, of the views that one model computes."""
    model_runner = runner.runner_of(readings[0].state.reader)
    views = len(readings)
    order = sorted(range(views), key=lambda k: id(readings[k].prompt))
    plan = ExtendPlan([segment(readings[k]) for k in order], model_runner.device, capture=False)
    begins = torch.tensor([plan.offsets[order.index(k)] for k in range(views)])
    last = len(readings[0].new)
    places = [
        (begins + torch.arange(t, min(t + chunk, last))[:, None]).flatten().to(model_runner.device)
        for t in starts
    ]
    model_runner.stats.response_tokens += len(plan.tokens)
    for logits in model_runner.each_logits(plan, plan.tokens, places):
        yield logits.view(-1, views, logits.shape[-1])
