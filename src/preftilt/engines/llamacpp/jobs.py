"""The worker's jobs: one a request, with the future that its caller awaits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.streaming import Increment
from preftilt.types import Completion, Finish, Tokens


@dataclass(eq=False, slots=True)
class LlamaSampleJob:
    """A request to draw completions; ``started`` counts the slots that were admitted, ``done`` the tokens drawn.

    ``on_increment`` is called with each of them.
    """

    request: SampleRequest
    future: Future[list[Completion]] = field(default_factory=Future)
    started: int = 0
    done: int = 0
    completions: dict[int, Completion] = field(default_factory=dict)
    on_increment: Callable[[Increment], None] | None = None

    @property
    def context(self) -> Tokens:
        """All tokens before the first new one."""
        return self.request.prompt + self.request.prefix

    @property
    def waiting(self) -> int:
        """Number of slots that were not admitted yet."""
        return len(self.request.slots) - self.started

    def emit(
        self, index: int, start: int, token: int, logprob: float, finish: Finish | None
    ) -> None:
        """Report the token at position ``start`` of a slot."""
        if self.on_increment is not None:
            self.on_increment(
                Increment(
                    slot=self.request.slots[index],
                    start=start,
                    tokens=(token,),
                    logprobs=np.array([logprob]),
                    finish=finish,
                )
            )

    def finish(self, index: int, completion: Completion) -> None:
        """Complete a slot; with the last one, the request."""
        self.completions[index] = completion
        if len(self.completions) == len(self.request.slots):
            set_future_result(
                self.future, [self.completions[i] for i in range(len(self.request.slots))]
            )


@dataclass(eq=False, slots=True)
class LlamaScoreJob:
    """A request for log-probs of a completion that is not empty; ``done`` counts its scored tokens."""

    request: ScoreRequest
    future: Future[np.ndarray] = field(default_factory=Future)
    done: int = 0

    @property
    def context(self) -> Tokens:
        """As :attr:`LlamaSampleJob.context`."""
        return self.request.prompt + self.request.prefix


LlamaJob = LlamaSampleJob | LlamaScoreJob


def set_future_result(future: Future[Any], result: object) -> None:
    """Set a future's result, unless its caller has cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)


def set_future_error(future: Future[Any], error: Exception) -> None:
    """Set a future's exception, unless it is done or cancelled."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)
