"""Log-probs of given continuations: only their own tokens are forwarded, those of many requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from preftilt.engines.transformers.caches import Prompt, Store, Tail
from preftilt.engines.transformers.extend import ExtendPlan, Segment
from preftilt.engines.transformers.jobs import ScoreJob
from preftilt.engines.transformers.runner import Runner
from preftilt.engines.transformers.sampler import logprobs_of
from preftilt.types import Tokens


@dataclass(frozen=True, slots=True)
class Reading:
    """One request: ``new`` are the tokens to forward, all but the last of what no stored tail covers.

    If nothing of the response stands before the completion, its first token is judged by the prompt's own logits
    (``by_prompt``).
    """

    job: ScoreJob
    prompt: Prompt
    tail: Tail | None
    new: Tokens

    @property
    def by_prompt(self) -> bool:
        return not self.job.request.prefix

    @property
    def forwarded_targets(self) -> Tokens:
        """The completion's tokens that are judged by this forward's logits."""
        completion = self.job.request.completion
        return completion[1:] if self.by_prompt else completion


def reading(job: ScoreJob, store: Store) -> Reading:
    """What has to be forwarded for a request whose prompt is there."""
    assert job.prompt is not None
    request = job.request
    tail = store.longest_tail(job.prompt, request.prefix[:-1])
    known = len(tail.tokens) if tail else 0
    return Reading(job, job.prompt, tail, (request.prefix + request.completion)[known:-1])


def score(readings: Sequence[Reading], runner: Runner, store: Store) -> list[np.ndarray]:
    """Log-probs (float64) of every reading's completion."""
    by_prompt = [_by_prompt(r) for r in readings]
    order = [i for i, r in enumerate(readings) if r.new]
    order.sort(key=lambda i: (id(readings[i].prompt), len(readings[i].new)))
    rest: dict[int, np.ndarray] = {}
    if order:
        rest = _forward([readings[i] for i in order], order, runner, store)
    runner.stats.scored += sum(len(r.job.request.completion) for r in readings)
    return [np.concatenate([first, rest.get(i, np.empty(0))]) for i, first in enumerate(by_prompt)]


def _by_prompt(r: Reading) -> np.ndarray:
    if not r.by_prompt:
        return np.empty(0)
    first = torch.tensor(r.job.request.completion[:1], device=r.prompt.logits.device)
    return logprobs_of(r.prompt.logits[None], first).cpu().numpy()


def _forward(
    readings: Sequence[Reading], numbers: Sequence[int], runner: Runner, store: Store
) -> dict[int, np.ndarray]:
    keep = any(r.job.request.keep for r in readings)
    plan = ExtendPlan([_segment(r) for r in readings], runner.device, capture=keep)
    where: list[int] = []
    targets: list[int] = []
    for r, stop in zip(readings, plan.offsets[1:], strict=True):
        judged = r.forwarded_targets
        where.extend(range(stop - len(judged), stop))
        targets.extend(judged)
    device = runner.device
    logprobs = runner.logprobs(
        plan, plan.tokens, torch.tensor(where, device=device), torch.tensor(targets, device=device)
    )
    runner.stats.response_tokens += len(plan.tokens)
    for number, r in enumerate(readings):
        if r.job.request.keep:
            request = r.job.request
            store.add_tail(
                r.prompt, Tail((request.prefix + request.completion)[:-1], plan.layers(number))
            )
    pieces = np.split(
        logprobs.cpu().numpy(), np.cumsum([len(r.forwarded_targets) for r in readings])[:-1]
    )
    return dict(zip(numbers, pieces, strict=True))


def _segment(r: Reading) -> Segment:
    layers, length = (r.tail.layers, len(r.tail.tokens)) if r.tail else ({}, 0)
    return Segment(r.new, r.prompt.layers, r.prompt.length, layers, length)
