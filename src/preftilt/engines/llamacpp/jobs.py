"""What the engine's thread works on: one job a request, with the future its caller awaits."""

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
    """A request for continuations; ``started`` counts the slots whose rows have begun, ``done`` the tokens drawn.

    ``told`` is given each of them as it is drawn.
    """

    request: SampleRequest
    future: Future[list[Completion]] = field(default_factory=Future)
    started: int = 0
    done: int = 0
    completions: dict[int, Completion] = field(default_factory=dict)
    told: Callable[[Increment], None] | None = None

    @property
    def context(self) -> Tokens:
        """All tokens before the first new one."""
        return self.request.prompt + self.request.prefix

    @property
    def waiting(self) -> int:
        """Slots whose rows have not begun."""
        return len(self.request.slots) - self.started

    def tell(self, index: int, place: int, token: int, logprob: float, why: Finish | None) -> None:
        """The token at ``place`` of a slot has been drawn."""
        if self.told is not None:
            self.told(
                Increment(
                    slot=self.request.slots[index],
                    start=place,
                    tokens=(token,),
                    logprobs=np.array([logprob]),
                    finish=why,
                )
            )

    def finish(self, index: int, completion: Completion) -> None:
        """One slot is done; the request is when all are."""
        self.completions[index] = completion
        if len(self.completions) == len(self.request.slots):
            set_future_result(
                self.future, [self.completions[i] for i in range(len(self.request.slots))]
            )


@dataclass(eq=False, slots=True)
class LlamaScoreJob:
    """A request for log-probs of a completion that is not empty; ``done`` counts its tokens that are scored."""

    request: ScoreRequest
    future: Future[np.ndarray] = field(default_factory=Future)
    done: int = 0

    @property
    def context(self) -> Tokens:
        """As :attr:`LlamaSampleJob.context`."""
        return self.request.prompt + self.request.prefix


LlamaJob = LlamaSampleJob | LlamaScoreJob


def set_future_result(future: Future[Any], result: object) -> None:
    """Give a waiting caller its result; one who went away gets none."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)


def set_future_error(future: Future[Any], error: Exception) -> None:
    """Give a waiting caller an error, unless it went away or has its answer."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)
