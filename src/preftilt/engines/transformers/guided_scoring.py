"""Log-probs of given tokens under guided decoding: the logits of all views at every position, mixed and normalised.

The mixing rule is the decoder's own (``sampler.guided``), so this is the distribution that it would have drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from preftilt.engines.base import Mixture
from preftilt.engines.transformers.extend import ExtendPlan
from preftilt.engines.transformers.jobs import NormaliseJob
from preftilt.engines.transformers.runner import LOGIT_NUMBERS, ModelRunner
from preftilt.engines.transformers.sampler import GuidanceRule, guided, logprobs_of
from preftilt.engines.transformers.scoring import PreparedScore, segment
from preftilt.types import Tokens


def normalise(job: NormaliseJob, runner: ModelRunner) -> np.ndarray:
    """Log-probs [R, T] (float64) of the job's completion; its caches must be filled. One forward per model."""
    readings = [PreparedScore(part) for part in job.parts]
    completion = job.request.reads[0].completion
    first = torch.stack([view.state.logits for view in readings])[None]
    parts = [mixture_logprobs(first, job.request.mixtures, completion[:1])]
    if len(completion) > 1:
        parts.extend(_rest(readings, job.request.mixtures, runner))
    runner.stats.scored += len(completion)
    return np.concatenate(parts, axis=1)


def mixture_logprobs(logits: Tensor, mixtures: Sequence[Mixture], tokens: Tokens) -> np.ndarray:
    """Log-probs [R, n] of ``tokens`` [n] under every mixture of ``logits`` float32 [n, K, V]."""
    targets = torch.tensor(tokens, device=logits.device)
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


def _rest(
    readings: Sequence[PreparedScore], mixtures: Sequence[Mixture], runner: ModelRunner
) -> list[np.ndarray]:
    """Log-probs in pieces [R, n] of the tokens after the first; at most ``LOGIT_NUMBERS`` logits exist at a time."""
    tokens = readings[0].job.request.completion[1:]
    chunk = max(1, LOGIT_NUMBERS // (runner.vocabulary * len(readings)))
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
