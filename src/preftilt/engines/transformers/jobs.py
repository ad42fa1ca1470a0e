"""What the worker works on: one job a request, with the future its caller awaits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.guides import GuideRequest, Proposal, ProposeRequest
from preftilt.engines.normalises import NormaliseRequest
from preftilt.engines.streaming import Increment
from preftilt.engines.transformers.prefix_cache import CachedPrompt, CachedTail
from preftilt.engines.transformers.sampler import GuidanceRule
from preftilt.types import Completion, Finish, Guided, Reader, Tokens


@dataclass(eq=False, slots=True)
class PrefixState:
    """What a request stands on: a prompt and the response prefix behind it, and who reads them.

    ``prompt`` is set when the prompt's cache is there; ``tail``, with its logits, when that of the whole prefix is.
    """

    tokens: Tokens
    prefix: Tokens
    reader: Reader | None = None
    prompt: CachedPrompt | None = None
    tail: CachedTail | None = None

    @property
    def cache(self) -> CachedPrompt:
        """The prompt's cache, which must be there."""
        assert self.prompt is not None
        return self.prompt

    @property
    def logits(self) -> Tensor:
        """Float32 logits [V] after prompt and prefix, whose caches must be there."""
        source = self.tail if self.prefix else self.prompt
        assert source is not None
        assert source.logits is not None
        return source.logits


@dataclass(eq=False, slots=True)
class DrawJob:
    """A request for continuations; one that is guided has a ``rule`` and several grounds, one a view.

    ``started`` counts its rows, ``done`` the tokens drawn for them; ``told`` is given each of them as it is drawn. Made
    by :func:`draw_job`.
    """

    request: SampleRequest | GuideRequest
    grounds: tuple[PrefixState, ...]
    rule: GuidanceRule | None
    future: Future[list[Any]] = field(default_factory=Future)
    started: int = 0
    done: int = 0
    drawn: dict[int, Completion | Guided] = field(default_factory=dict)
    told: Callable[[Increment], None] | None = None

    def tell(
        self, index: int, tokens: list[int], logprobs: list[float], why: Finish | None
    ) -> None:
        """The last of a slot's tokens so far has been drawn, with log-probs of every view."""
        if self.told is None:
            return
        views = np.array(logprobs, dtype=np.float64)
        self.told(
            Increment(
                slot=self.request.slots[index],
                start=len(tokens) - 1,
                tokens=(tokens[-1],),
                logprobs=views if self.rule is None else views[:, None],
                finish=why,
            )
        )

    def finish(
        self, index: int, tokens: list[int], logprobs: list[list[float]], why: Finish
    ) -> None:
        """One slot is done, with a list of log-probs a token; the request is when all are."""
        views = np.array(logprobs, dtype=np.float64).T
        if self.rule is None:
            self.drawn[index] = Completion(tuple(tokens), views[0], why)
        else:
            self.drawn[index] = Guided(tuple(tokens), views, why)
        if len(self.drawn) == len(self.request.slots):
            settle(self.future, [self.drawn[i] for i in range(len(self.request.slots))])


@dataclass(eq=False, slots=True)
class ScoreJob:
    """A request for log-probs; made by :func:`score_job`."""

    request: ScoreRequest
    grounds: tuple[PrefixState]
    future: Future[np.ndarray] = field(default_factory=Future)

    @property
    def done(self) -> int:
        """Tokens scored so far: all at once."""
        return len(self.request.completion) if self.future.done() else 0


@dataclass(eq=False, slots=True)
class ProposeJob:
    """A request for the likeliest next tokens: done as soon as its ground is there. Made by :func:`propose_job`."""

    request: ProposeRequest
    grounds: tuple[PrefixState]
    future: Future[Proposal] = field(default_factory=Future)
    done: int = 0


@dataclass(eq=False, slots=True)
class NormaliseJob:
    """A request for the log-probs of guided decoding; ``parts`` read its completion, one a view.

    Made by :func:`normalise_job`.
    """

    request: NormaliseRequest
    parts: tuple[ScoreJob, ...]
    future: Future[np.ndarray] = field(default_factory=Future)
    done: int = 0

    @property
    def grounds(self) -> tuple[PrefixState, ...]:
        """What the parts stand on."""
        return tuple(ground for part in self.parts for ground in part.grounds)


Job = DrawJob | ScoreJob | ProposeJob | NormaliseJob


def draw_job(request: SampleRequest | GuideRequest) -> DrawJob:
    """The job of a request that draws."""
    if isinstance(request, SampleRequest):
        return DrawJob(request, (PrefixState(request.prompt, request.prefix),), None)
    weights = tuple(view.weight for view in request.views)
    rule = GuidanceRule(weights, request.mask, request.preferred, request.strength_by)
    grounds = tuple(PrefixState(view.prompt, request.prefix, view.reader) for view in request.views)
    return DrawJob(request, grounds, rule)


def score_job(request: ScoreRequest) -> ScoreJob:
    """The job of a request that scores."""
    return ScoreJob(request, (PrefixState(request.prompt, request.prefix, request.reader),))


def propose_job(request: ProposeRequest) -> ProposeJob:
    """The job of a request that asks what may come next."""
    return ProposeJob(request, (PrefixState(request.prompt, request.prefix),))


def normalise_job(request: NormaliseRequest) -> NormaliseJob:
    """The job of a request for the log-probs of guided decoding."""
    return NormaliseJob(request, tuple(map(score_job, request.reads)))


def settle(future: Future[Any], result: object) -> None:
    """Give a future its result, or its exception; a cancelled one is left alone."""
    if not future.done() and future.set_running_or_notify_cancel():
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
