"""The worker's jobs: one a request, with the future that its caller awaits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from preftilt.engines.base import (
    GuideRequest,
    Increment,
    NormaliseRequest,
    Proposal,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
)
from preftilt.engines.transformers.prefix_cache import CachedPrompt, CachedTail
from preftilt.engines.transformers.sampler import GuidanceRule
from preftilt.engines.worker import settle
from preftilt.types import Completion, Finish, GuidedCompletion, Reader, Tokens


@dataclass(eq=False, slots=True)
class PrefixState:
    """The state of a request's prefix: prompt tokens, response prefix, reader, and their caches as far as filled.

    ``prompt`` is set once the prompt is prefilled; ``tail``, with its logits, once the whole prefix is.
    """

    tokens: Tokens
    prefix: Tokens
    reader: Reader | None = None
    prompt: CachedPrompt | None = None
    tail: CachedTail | None = None

    @property
    def cache(self) -> CachedPrompt:
        """The cached prompt; it must be prefilled."""
        assert self.prompt is not None
        return self.prompt

    @property
    def logits(self) -> Tensor:
        """Float32 logits [V] after prompt and prefix, which must be prefilled."""
        source = self.tail if self.prefix else self.prompt
        assert source is not None
        assert source.logits is not None
        return source.logits


@dataclass(eq=False, slots=True)
class DrawJob:
    """A request to draw completions; a guided one has a ``rule`` and a prefix state per view.

    ``started`` counts its rows, ``done`` the tokens drawn for them; ``on_increment`` is called with each of them. Made
    by :func:`draw_job`.
    """

    request: SampleRequest | GuideRequest
    prefix_states: tuple[PrefixState, ...]
    rule: GuidanceRule | None
    future: Future[list[Any]] = field(default_factory=Future)
    started: int = 0
    done: int = 0
    drawn: dict[int, Completion | GuidedCompletion] = field(default_factory=dict)
    on_increment: Callable[[Increment], None] | None = None

    def emit(
        self, index: int, tokens: list[int], logprobs: list[float], finish: Finish | None
    ) -> None:
        """Report the last of a slot's tokens, with its log-probs under every view."""
        if self.on_increment is None:
            return
        views = np.array(logprobs, dtype=np.float64)
        self.on_increment(
            Increment(
                slot=self.request.slots[index],
                start=len(tokens) - 1,
                tokens=(tokens[-1],),
                logprobs=views if self.rule is None else views[:, None],
                finish=finish,
            )
        )

    def finish(
        self, index: int, tokens: list[int], logprobs: list[list[float]], finish: Finish
    ) -> None:
        """Complete a slot, with a list of log-probs per token; with the last slot, the request."""
        views = np.array(logprobs, dtype=np.float64).T
        if self.rule is None:
            self.drawn[index] = Completion(tuple(tokens), views[0], finish)
        else:
            self.drawn[index] = GuidedCompletion(tuple(tokens), views, finish)
        if len(self.drawn) == len(self.request.slots):
            settle(self.future, [self.drawn[i] for i in range(len(self.request.slots))])


@dataclass(eq=False, slots=True)
class ScoreJob:
    """A request for log-probs; made by :func:`score_job`."""

    request: ScoreRequest
    prefix_states: tuple[PrefixState]
    future: Future[np.ndarray] = field(default_factory=Future)

    @property
    def done(self) -> int:
        """Tokens scored so far: none or all."""
        return len(self.request.completion) if self.future.done() else 0


@dataclass(eq=False, slots=True)
class ProposeJob:
    """A request for the likeliest next tokens: done once its prefix is prefilled. Made by :func:`propose_job`."""

    request: ProposeRequest
    prefix_states: tuple[PrefixState]
    future: Future[Proposal] = field(default_factory=Future)
    done: int = 0


@dataclass(eq=False, slots=True)
class NormaliseJob:
    """A request for log-probs under guided decoding; ``parts`` score its completion, one a view.

    Made by :func:`normalise_job`.
    """

    request: NormaliseRequest
    parts: tuple[ScoreJob, ...]
    future: Future[np.ndarray] = field(default_factory=Future)
    done: int = 0

    @property
    def prefix_states(self) -> tuple[PrefixState, ...]:
        """The prefix states of all parts."""
        return tuple(state for part in self.parts for state in part.prefix_states)


Job = DrawJob | ScoreJob | ProposeJob | NormaliseJob


def draw_job(request: SampleRequest | GuideRequest) -> DrawJob:
    """The job of a request that draws."""
    if isinstance(request, SampleRequest):
        return DrawJob(request, (PrefixState(request.prompt, request.prefix),), None)
    weights = tuple(view.weight for view in request.views)
    rule = GuidanceRule(weights, request.mask, request.preferred, request.strength_by)
    prefix_states = tuple(
        PrefixState(view.prompt, request.prefix, view.reader) for view in request.views
    )
    return DrawJob(request, prefix_states, rule)


def score_job(request: ScoreRequest) -> ScoreJob:
    """The job of a request that scores."""
    return ScoreJob(request, (PrefixState(request.prompt, request.prefix, request.reader),))


def propose_job(request: ProposeRequest) -> ProposeJob:
    """The job of a request for the likeliest next tokens."""
    return ProposeJob(request, (PrefixState(request.prompt, request.prefix),))


def normalise_job(request: NormaliseRequest) -> NormaliseJob:
    """The job of a request for the log-probs of guided decoding."""
    return NormaliseJob(request, tuple(map(score_job, request.reads)))
