"""What the worker works on: one job a request, with the future its caller awaits."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.transformers.caches import Prompt, Tail
from preftilt.types import Completion, Finish


@dataclass(eq=False, slots=True)
class SampleJob:
    """A request for continuations.

    ``prompt`` is set when its cache is there; ``tail``, with its logits, when that of the whole prefix is.
    ``started`` counts its rows, ``done`` the tokens drawn for them.
    """

    request: SampleRequest
    future: Future[list[Completion]] = field(default_factory=Future)
    prompt: Prompt | None = None
    tail: Tail | None = None
    started: int = 0
    done: int = 0
    completions: dict[int, Completion] = field(default_factory=dict)

    def finish(self, index: int, tokens: list[int], logprobs: list[float], why: Finish) -> None:
        """One slot is done; the request is when all are."""
        self.completions[index] = Completion(
            tuple(tokens), np.array(logprobs, dtype=np.float64), why
        )
        if len(self.completions) == len(self.request.slots):
            settle(self.future, [self.completions[i] for i in range(len(self.request.slots))])


@dataclass(eq=False, slots=True)
class ScoreJob:
    """A request for log-probs; ``prompt`` and ``tail`` as in :class:`SampleJob`."""

    request: ScoreRequest
    future: Future[np.ndarray] = field(default_factory=Future)
    prompt: Prompt | None = None
    tail: Tail | None = None

    @property
    def done(self) -> int:
        """Tokens scored so far: all at once."""
        return len(self.request.completion) if self.future.done() else 0


Job = SampleJob | ScoreJob


def next_logits(job: Job) -> Tensor:
    """Float32 logits [V] after the request's prompt and prefix, whose caches must be there."""
    source = job.tail if job.request.prefix else job.prompt
    assert source is not None
    assert source.logits is not None
    return source.logits


def settle(future: Future[Any], result: object) -> None:
    """Give a future its result, or its exception; a cancelled one is left alone."""
    if not future.done() and future.set_running_or_notify_cancel():
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
