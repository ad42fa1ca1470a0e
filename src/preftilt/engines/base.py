"""The engine contract: sample completions, score given ones; token ids in, token ids out.

All calls take lists and return lists in the same order. No cache handle crosses the interface: an engine that keeps
key/value caches finds them by token ids. What not every engine can do (guided decoding, likeliest next tokens,
normalised scores, streams, progress, pings) is a method with a default. The laws that an engine must obey are
executable: ``preftilt.testing.laws``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.arm.spec import Objective
from preftilt.errors import BadInput
from preftilt.prompt import ChatTokenizer
from preftilt.types import (
    Completion,
    Finish,
    GuidedCompletion,
    Mask,
    Reader,
    Sampling,
    Step,
    Stream,
    StrengthBy,
    Tokens,
)

# --- requests and results -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Draw one completion of ``prompt + prefix`` for every slot.

    ``prefix`` is the part of the response that exists already; the first new token has position ``len(prefix)`` in the
    random stream of its slot, so drawing in chunks and at once give the same tokens. ``keep``: the caller expects to
    continue or score these completions, a hint to keep their caches. ``logprobs``: whether the caller needs
    log-probs; if not, an engine may return zeros; tokens are the same.
    """

    prompt: Tokens
    prefix: Tokens = ()
    slots: tuple[int, ...]
    stream: Stream
    sampling: Sampling
    max_tokens: int
    step: Step | None = None
    keep: bool = False
    logprobs: bool = True

    def without_tokens(self) -> list[Completion]:
        """What is returned where no token may be drawn."""
        return [Completion((), np.empty(0), "length")] * len(self.slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Log-probs of ``completion`` after ``prompt + prefix``; ``keep`` as in :class:`SampleRequest`.

    ``reader``: score under one of the engine's reward models in place of its base model.
    """

    prompt: Tokens
    prefix: Tokens = ()
    completion: Tokens
    keep: bool = False
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class GuidedView:
    """A prompt whose log-probs enter every token's distribution, and its weight.

    ``reader`` as in :class:`ScoreRequest`.
    """

    prompt: Tokens
    weight: float
    reader: Reader | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideRequest:
    """Draw one continuation of ``prefix`` for every slot, each token from the weighted log-probs of all views.

    log π(v) = Σ_k w_k log π(v | view k) + const; weights are finite and need not add up to 1. ``strength_by``
    "divergence" takes the first two for 1 − λ and λ, and adapts λ by token (:func:`preftilt.guided.adapted`). ``mask``
    of the preference looks at view number ``preferred``. The mask comes first, then temperature, top-k and top-p. All
    else is as in :class:`SampleRequest`.
    """

    views: tuple[GuidedView, ...]
    prefix: Tokens = ()
    slots: tuple[int, ...]
    stream: Stream
    sampling: Sampling
    max_tokens: int
    mask: Mask | None = None
    preferred: int = 0
    strength_by: StrengthBy = "fixed"
    step: Step | None = None
    keep: bool = False

    def without_tokens(self) -> list[GuidedCompletion]:
        """What is returned where no token may be drawn."""
        return [GuidedCompletion((), np.empty((len(self.views), 0)), "length")] * len(self.slots)

    def as_sample(self, view: GuidedView) -> SampleRequest:
        """The request to sample from ``view`` alone."""
        return SampleRequest(
            prompt=view.prompt,
            prefix=self.prefix,
            slots=self.slots,
            stream=self.stream,
            sampling=self.sampling,
            max_tokens=self.max_tokens,
            step=self.step,
            keep=self.keep,
        )


DrawingRequest = SampleRequest | GuideRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """What one slot has drawn since its last increment.

    tokens [t] replace the new tokens from position ``start`` on: nearly always they are appended; an engine that gets
    text retokenises it. logprobs: [t], or [K, t] of a guided request. finish: set in the last increment of a slot.
    absent: as in :class:`~preftilt.types.Completion`.
    """

    slot: int
    start: int
    tokens: Tokens
    logprobs: Float[np.ndarray, "*K t"]
    finish: Finish | None = None
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeRequest:
    """The ``count`` likeliest tokens after ``prompt + prefix`` (fewer if the vocabulary is smaller)."""

    prompt: Tokens
    prefix: Tokens = ()
    count: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """``tokens`` [k], likeliest first, with their log-probs [k] (nats, temperature 1, unfiltered)."""

    tokens: Tokens
    logprobs: Float[np.ndarray, "k"]


@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixing of views into one distribution, as in :class:`GuideRequest`: weights [K]."""

    weights: tuple[float, ...]
    mask: Mask | None = None
    preferred: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseRequest:
    """One completion, scored under K views (``reads``), and R mixtures of them.

    Guided decoding draws from log π(v) = Σ_k w_k log π(v | view k) − log Z, and log Z is a sum over the vocabulary at
    every position: log-probs of the given tokens alone do not tell it.
    """

    reads: tuple[ScoreRequest, ...]
    mixtures: tuple[Mixture, ...]


@dataclass(slots=True)
class Partial:
    """A partial response: the joined increments of one slot."""

    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    absent: str = ""
    _columns: list[Float[np.ndarray, "*K"]] = field(default_factory=list)

    def take(self, increment: Increment) -> None:
        """Append the next increment."""
        self.tokens[increment.start :] = increment.tokens
        self._columns[increment.start :] = np.moveaxis(increment.logprobs, -1, 0)
        self.finish, self.absent = increment.finish, increment.absent

    def response(self, request: DrawingRequest, finish: Finish) -> Any:
        """The ``Completion`` or ``GuidedCompletion`` that ``request`` returns; ``finish`` if it has not ended."""
        tokens, end = tuple(self.tokens), self.finish or finish
        if isinstance(request, SampleRequest):
            logprobs = np.array(self._columns, dtype=np.float64)
            return Completion(tokens, logprobs, end, self.absent)
        columns = np.array(self._columns, dtype=np.float64)
        return GuidedCompletion(
            tokens, columns.reshape(len(tokens), len(request.views)).T, end, self.absent
        )


# --- what is known of an engine -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownArm:
    """An autoregressive reward model (ARM) that an engine has open.

    name: as in :class:`~preftilt.types.Reader`. objectives: those that its preference vector weighs, in order.
    method: how it was made, e.g. ``genarm``.
    """

    name: str
    objectives: tuple[Objective, ...]
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """An engine's abilities, established when it is opened.

    max_context: tokens of prompt and response together.
    eos: ids that end a response.
    turn_end: the one of them with which the model's chat template ends an answer; given responses end with it.
    sampler_logprobs: the log-probs of ``sample`` equal those of ``score`` closely enough to be used in their place.
    guided_logprobs: those of ``guide`` may be used so even where rounding tells the two apart, if all views that are
        compared come from it: it computes them alike, so that rounding favours none.
    keyed_streams: tokens depend on (seed, item, slot, position) only, not on what else is in the batch.
    guides, proposes, normalises: it has :meth:`Engine.guide`, :meth:`Engine.propose` and :meth:`Engine.normalise`.
    arms: its reward models; any other reader is refused.
    images: messages may hold images.
    unscored: why :meth:`Engine.score` is refused, with a remedy; empty where it is not. Then only guided answers can be
    had, whose log-probs come with drawing.
    """

    max_context: int
    eos: frozenset[int]
    turn_end: int
    sampler_logprobs: bool
    keyed_streams: bool
    guides: bool = False
    guided_logprobs: bool = False
    proposes: bool = False
    normalises: bool = False
    arms: tuple[KnownArm, ...] = ()
    images: bool = False
    unscored: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One result of a probe: the question, the answer, and what follows from it."""

    question: str
    answer: str
    meaning: str = ""


class ServerRefused(BadInput):
    """A server lacks a needed ability; ``facts`` are the results of its probe up to then."""

    def __init__(self, message: str, facts: tuple[Fact, ...]) -> None:
        super().__init__(message)
        self.facts = facts


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The status of a replica, for people and for ``/metrics``.

    load: running sequences. calls, failed: how many it was given, and how many of them failed.
    """

    name: str
    up: bool
    load: int
    calls: int
    failed: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What is known of an open engine.

    name: the kind of engine and its model, e.g. ``transformers:demo``. model: its id or path, as given. tokenizer: its
    chat template and vocabulary. versions: of the packages that compute, and how, for the record. facts: the results
    of the probe at opening. plan: how it draws and scores, a line each.
    """

    name: str
    model: str
    capabilities: Capabilities
    tokenizer: ChatTokenizer
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    plan: tuple[str, ...] = ()


# --- engines ------------------------------------------------------------------------


class Engine(ABC):
    """A model that can sample and score. Safe to call from many tasks at once; it batches their requests.

    Token ids in, token ids out. Subclasses need :attr:`info`, :meth:`sample`, :meth:`score` and :meth:`close`; they
    override what else they can do, and say so in their :class:`Capabilities`. The laws that every engine obeys are
    executable: ``preftilt.testing.laws``.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def info(self) -> EngineInfo:
        """What is known of it."""

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def model(self) -> str:
        return self.info.model

    @property
    def capabilities(self) -> Capabilities:
        return self.info.capabilities

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.info.tokenizer

    @property
    def versions(self) -> dict[str, str]:
        return dict(self.info.versions)

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """The status of each replica; empty where there is only one engine."""
        return ()

    @abstractmethod
    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """One list of completions a request, one completion a slot, in the order of its slots.

        A response that reaches the model's context ends there with ``length``. Raises
        :class:`~preftilt.errors.PromptTooLong` if there is no room for a single token.
        """

    @abstractmethod
    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """One array of log-probs a request: nats, temperature 1, unfiltered, float64; empty for no tokens."""

    @abstractmethod
    def close(self) -> None:
        """Free threads and memory; running calls fail with :class:`~preftilt.errors.EngineError`."""

    async def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        """The increments of all slots as they come, each slot's in order; by default whole responses.

        Joined they equal the result of ``sample`` (``guide``). Closing the generator ends the drawing, like cancelling
        a call; errors are those of the call.
        """
        if isinstance(request, SampleRequest):
            [drawn] = await self.sample([request])
        else:
            [drawn] = await self.guide([request])
        for increment in whole_responses(request, drawn):
            yield increment

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        """As :meth:`sample`, from several views at once; log-probs in the order of the request's views."""
        raise BadInput(f"{self.name} cannot draw from several views at once; open one that can")

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """The likeliest next tokens, for the caller to choose; called token by token, it computes only new ones."""
        raise BadInput(f"{self.name} does not tell its likeliest next tokens; open one that does")

    async def normalise(
        self, requests: Sequence[NormaliseRequest]
    ) -> list[Float[np.ndarray, "R T"]]:
        """log π of every token under every mixture (nats, temperature 1, normalised); −inf outside a mask."""
        raise BadInput(f"{self.name} does not normalise mixtures of views; open one that does")

    def progress(self, request: object) -> int:
        """Tokens drawn or scored so far for this request object (by identity); 0 if it is not running or cannot say.

        For display. Called about ten times a second from the caller's event loop: it must return at once. The driver
        polls, rather than being called back, so that decoding does no work for it.
        """
        return 0

    async def ping(self) -> None:
        """Send the cheapest request there is to a model elsewhere, one that is not queued behind others.

        Raises :class:`~preftilt.errors.EngineError` if there is no answer, or another model answers.
        """
        return


def whole_responses(
    request: DrawingRequest, drawn: Sequence[Completion] | Sequence[GuidedCompletion]
) -> list[Increment]:
    """Complete responses as increments."""
    return [
        Increment(
            slot=slot,
            start=0,
            tokens=response.tokens,
            logprobs=response.logprobs,
            finish=response.finish,
            absent=response.absent,
        )
        for slot, response in zip(request.slots, drawn, strict=True)
    ]


@dataclass(eq=False, slots=True)
class EngineWrapper(Engine):
    """Forwards everything to ``inner``; subclasses override parts of it.

    One that changes draws overrides ``guide``, ``stream`` and ``propose``, too, or takes them out of its capabilities.
    """

    inner: Engine

    @property
    def info(self) -> EngineInfo:
        return self.inner.info

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        return self.inner.replica_statuses

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return await self.inner.sample(requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.inner.score(requests)

    def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        return self.inner.stream(request)

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        return await self.inner.guide(requests)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        return await self.inner.propose(requests)

    async def normalise(
        self, requests: Sequence[NormaliseRequest]
    ) -> list[Float[np.ndarray, "R T"]]:
        return await self.inner.normalise(requests)

    def progress(self, request: object) -> int:
        return self.inner.progress(request)

    async def ping(self) -> None:
        await self.inner.ping()

    def close(self) -> None:
        self.inner.close()
