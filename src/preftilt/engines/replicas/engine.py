"""Replicas as one engine: the contract of ``engines/base.py`` over several engines of the same model.

Prompts are routed by highest-random-weight (rendezvous) hashing (Thaler and Ravishankar, IEEE/ACM Transactions on
Networking 6, 1998): a prompt ranks all replicas by a hash of both, and goes to the first. It keeps no state, so several
processes that use the same replicas agree, and when one replica is lost only its prompts move. Loads are bounded as in
consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018): a replica that holds more than
its share is passed over.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import reduce
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    Capabilities,
    DrawingRequest,
    Engine,
    EngineInfo,
    Fact,
    GuideRequest,
    Increment,
    Proposal,
    ProposeRequest,
    ReplicaStatus,
    SampleRequest,
    ScoreRequest,
)
from preftilt.engines.checks import check_guide
from preftilt.engines.replicas.replica import (
    ModelIdentity,
    OpenReplica,
    Replica,
    WatchIntervals,
    identify,
    open_in_thread,
    watch_replica,
)
from preftilt.engines.waiting import Channel, LoopThread, together
from preftilt.errors import BadInput, EngineError, EngineTimeout, PromptTooLong
from preftilt.types import Completion, GuidedCompletion, Tokens

LOAD_SLACK = 1.25
"""A replica's load at most, relative to the mean load."""

FREE_LOAD = 64
"""Running sequences below which no replica counts as loaded: a batch that a server runs at once. So a prompt stays on
its replica, where its prefix is cached, unless others would finish it sooner."""


def rank_replicas(prompt: Tokens, names: Sequence[str]) -> list[str]:
    """``names`` in the order in which the prompt prefers them."""
    digest = blake2b(np.array(prompt, dtype="<i8").tobytes(), digest_size=16).digest()
    return sorted(names, key=lambda name: blake2b(digest + name.encode()).digest())


def choose_replica(
    prompt: Tokens, loads: Mapping[str, int], weight: int, free_load: int = FREE_LOAD
) -> str:
    """The replica for work of ``weight`` sequences on ``prompt``.

    loads: running sequences, by the names of the available replicas. It is the first in the prompt's order whose load
    is below the bound; that of the least loaded one always is.
    """
    mean = (sum(loads.values()) + weight) / len(loads)
    bound = max(free_load, math.ceil(LOAD_SLACK * mean))
    return next(name for name in rank_replicas(prompt, [*loads]) if loads[name] < bound)


T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D", SampleRequest, GuideRequest)

TRIES = 3
"""Number of replicas that a request is tried on: one that brings down its replica must not bring down all."""


@dataclass(frozen=True, slots=True)
class RoutedRequest(Generic[R]):
    """A request, the prompt that it is routed by, and its load in sequences."""

    prompt: Tokens
    weight: int
    request: R


class Replicas(Engine):
    """Gives every request to one of several engines of the same model; made by
    :func:`~preftilt.engines.replicas.engine.open_replicas`.

    All requests of one prompt go to the same replica, where its prefix is cached, unless that one has more than its
    share of load. Calls that a lost replica was running are repeated on another one, from the beginning. With keyed
    streams it draws the same tokens there. Without (servers), it gets the same seeds, and draws the same tokens as far
    as the servers honour them; it is a fair draw in any case, because nothing of the lost one is used.
    """

    def __init__(
        self,
        loop: LoopThread,
        replicas: Sequence[Replica],
        first: EngineInfo,
        identity: ModelIdentity,
        intervals: WatchIntervals,
        free_load: int,
    ) -> None:
        self._loop = loop
        self._replicas = tuple(replicas)
        self._identity = identity
        self._free_load = free_load
        self._first = first
        self._finalizer = weakref.finalize(
            self, LoopThread.close, loop, lambda: close_all(replicas)
        )
        for replica in replicas:
            loop.start(watch_replica(replica, identity, intervals))

    @property
    def info(self) -> EngineInfo:
        """What all share; versions of those that are up, all of them where they differ; which of them answer."""
        values_by_name: dict[str, dict[str, None]] = {}
        for engine in self._engines():
            for name, value in engine.versions.items():
                values_by_name.setdefault(name, {})[value] = None
        answering = tuple(
            Fact(status.name, "answers" if status.up else "does not answer", status.reason)
            for status in self.replica_statuses
        )
        return EngineInfo(
            name=",".join(replica.name for replica in self._replicas),
            model=self._identity.model,
            capabilities=self._identity.capabilities,
            tokenizer=self._first.tokenizer,
            versions={name: ", ".join(values) for name, values in values_by_name.items()},
            facts=(*answering, *self._first.facts),
            plan=(*self._first.plan, f"replicas: {len(self._replicas)}, by the prompt's tokens"),
        )

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        return tuple(replica.status for replica in self._replicas)

    def progress(self, request: object) -> int:
        return sum(engine.progress(request) for engine in self._engines())

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        for request in requests:
            self._check_room(request.prompt, len(request.prefix) + 1)
        tasks = [
            RoutedRequest(
                request.prompt, len(request.slots), self._fit_to_context(request, request.prompt)
            )
            for request in requests
        ]
        return await self._wait(tasks, lambda engine, part: engine.sample(part))

    def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        """By the replica that the prompt is routed to.

        If it fails before its first increment, another one is tried; a later failure is the stream's.
        """
        if isinstance(request, SampleRequest):
            self._check_room(request.prompt, len(request.prefix) + 1)
            fitted = self._fit_to_context(request, request.prompt)
            task = RoutedRequest(request.prompt, len(request.slots), fitted)
        else:
            task = self._guide_task(request)
        return self._loop.stream(lambda: self._stream(task))

    async def _stream(
        self, task: RoutedRequest[SampleRequest] | RoutedRequest[GuideRequest]
    ) -> AsyncGenerator[Increment, None]:
        begun = False

        async def forward_increments(engine: Engine) -> None:
            nonlocal begun
            async with aclosing(engine.stream(task.request)) as increments:
                async for increment in increments:
                    begun = True
                    channel.put(increment)

        channel: Channel[Increment] = Channel()
        work = self._run_on_replica(
            task.prompt, forward_increments, task.weight, again=lambda: not begun
        )
        async with aclosing(channel.until(asyncio.ensure_future(work))) as increments:
            async for increment in increments:
                yield increment

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        for request in requests:
            self._check_room(request.prompt, len(request.prefix) + len(request.completion))
        tasks = [RoutedRequest(request.prompt, 1, request) for request in requests]
        return await self._wait(tasks, lambda engine, part: engine.score(part))

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        """See :class:`~preftilt.engines.base.Engine`; a request is routed by its first view."""
        tasks = [self._guide_task(request) for request in requests]
        return await self._wait(tasks, lambda engine, part: engine.guide(part))

    def _guide_task(self, request: GuideRequest) -> RoutedRequest[GuideRequest]:
        check_guide(request)
        longest = max((view.prompt for view in request.views), key=len)
        self._check_room(longest, len(request.prefix) + 1)
        fitted = self._fit_to_context(request, longest)
        return RoutedRequest(request.views[0].prompt, len(request.slots), fitted)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        for request in requests:
            self._check_room(request.prompt, len(request.prefix) + 1)
        tasks = [RoutedRequest(request.prompt, 1, request) for request in requests]
        return await self._wait(tasks, lambda engine, part: engine.propose(part))

    def close(self) -> None:
        """Close all; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        self._finalizer()

    async def _wait(
        self,
        tasks: Sequence[RoutedRequest[R]],
        work: Callable[[Engine, list[R]], Coroutine[Any, Any, list[T]]],
    ) -> list[T]:
        return await self._loop.wait(lambda: self._run_by_prompt(tasks, work))

    async def _run_by_prompt(
        self,
        tasks: Sequence[RoutedRequest[R]],
        work: Callable[[Engine, list[R]], Coroutine[Any, Any, list[T]]],
    ) -> list[T]:
        """One concurrent call per prompt; results in order."""
        groups: dict[Tokens, list[int]] = {}
        for i, task in enumerate(tasks):
            groups.setdefault(task.prompt, []).append(i)

        async def call(prompt: Tokens, members: list[int]) -> list[T]:
            part = [tasks[i].request for i in members]
            weight = sum(tasks[i].weight for i in members)
            return await self._run_on_replica(prompt, lambda engine: work(engine, part), weight)

        parts = await together(call(prompt, members) for prompt, members in groups.items())
        results_by_index = {
            i: result
            for members, results in zip(groups.values(), parts, strict=True)
            for i, result in zip(members, results, strict=True)
        }
        return [results_by_index[i] for i in range(len(tasks))]

    async def _run_on_replica(
        self,
        prompt: Tokens,
        work: Callable[[Engine], Coroutine[Any, Any, T]],
        weight: int,
        again: Callable[[], bool] = lambda: True,
    ) -> T:
        """Run ``work`` on the replica that the prompt is routed to; if that fails and ``again``, on another one."""
        tried: list[Replica] = []
        while True:
            replica = await self._choose(prompt, tried, weight)
            try:
                return await replica.run(work, weight)
            except EngineError as failure:
                tried.append(replica)
                if isinstance(failure, EngineTimeout) and await self._is_up(replica):
                    raise  # The replica is up, but too slow: so would another be.
                remaining = [
                    other
                    for other in self._replicas
                    if other not in tried and other.state != "down"
                ]
                if len(tried) >= TRIES or not remaining or not again():
                    raise

    async def _choose(self, prompt: Tokens, tried: Sequence[Replica], weight: int) -> Replica:
        while True:
            remaining = [replica for replica in self._replicas if replica not in tried]
            available = {replica.name: replica for replica in remaining if replica.state == "up"}
            if available:
                loads = {name: replica.load for name, replica in available.items()}
                return available[choose_replica(prompt, loads, weight, self._free_load)]
            suspects = [replica for replica in remaining if replica.state == "suspect"]
            if not suspects:
                reasons = "; ".join(replica.reason for replica in remaining)
                raise EngineError(f"none of the {len(self._replicas)} replicas answers: {reasons}")
            await suspects[0].settled.wait()

    async def _is_up(self, replica: Replica) -> bool:
        """Whether it is up, once a pending ping has been answered."""
        await replica.settled.wait()
        return replica.state == "up"

    def _fit_to_context(self, request: D, prompt: Tokens) -> D:
        """The request, cut to the context that all replicas share, so that all would draw the same."""
        room = self._identity.capabilities.max_context - len(prompt) - len(request.prefix)
        return request if request.max_tokens <= room else replace(request, max_tokens=room)

    def _check_room(self, prompt: Tokens, new_tokens: int) -> None:
        room = self._identity.capabilities.max_context
        needed = len(prompt) + new_tokens
        if needed > room:
            raise PromptTooLong(
                f"prompt and response need {needed} tokens, {needed - room} more than the {room} that all replicas of"
                f" {self.model} can read; shorten the prompt or use a model with a longer context"
            )

    def _engines(self) -> list[Engine]:
        return [engine for replica in self._replicas if (engine := replica.engine) is not None]


async def close_all(replicas: Sequence[Replica]) -> None:
    """Close the engines that are open."""
    for replica in replicas:
        if replica.engine is not None:
            replica.engine.close()


def open_replicas(
    openers: Mapping[str, OpenReplica],
    intervals: WatchIntervals | None = None,
    *,
    free_load: int = FREE_LOAD,
) -> Replicas:
    """Open engines of the same model, by name, and make one engine of them.

    A replica that does not answer (:class:`~preftilt.errors.EngineError`) is left out, and added later when it does.
    free_load: running sequences below which no replica counts as loaded.

    Raises :class:`~preftilt.errors.BadInput` if they do not hold the same model, :class:`~preftilt.errors.EngineError`
    if none of them answers, and otherwise what opening one of them raises.
    """
    replicas = [Replica(name=name, open=work) for name, work in openers.items()]
    loop = LoopThread()
    try:
        wanted = loop.run(lambda: _open_all(replicas))
        [first, *_] = [replica.engine for replica in replicas if replica.engine is not None]
        return Replicas(
            loop, replicas, first.info, wanted, intervals or WatchIntervals(), free_load
        )
    except BaseException:
        loop.close(lambda: close_all(replicas))
        raise


async def _open_all(replicas: list[Replica]) -> ModelIdentity:
    """Open and compare replicas; returns the identity and abilities that all of those that answer share."""
    results = await together(_open_or_none(replica) for replica in replicas)
    identities = [identity for identity in results if identity is not None]
    if not identities:
        raise EngineError(
            f"none of the {len(replicas)} replicas answers: {'; '.join(replica.reason for replica in replicas)}"
        )
    first, *others = identities
    for other in others:
        difference = first.difference(other)
        if difference is not None:
            raise BadInput(f"{other.name} is no replica of {first.name}: {difference}")
    capabilities = reduce(_common_capabilities, [identity.capabilities for identity in identities])
    return replace(first, capabilities=capabilities)


async def _open_or_none(replica: Replica) -> ModelIdentity | None:
    """Open a replica; returns None, and sets its ``reason``, if it does not answer."""
    try:
        return await _open_and_identify(replica)
    except EngineError as failure:
        replica.reason = str(failure)
        return None


async def _open_and_identify(replica: Replica) -> ModelIdentity:
    engine: Engine = await open_in_thread(replica.open)
    try:
        identity = await identify(engine)
    except BaseException:
        engine.close()
        raise
    replica.mark_up(engine)
    return identity


def _common_capabilities(first: Capabilities, other: Capabilities) -> Capabilities:
    """The abilities of both; their end-of-response tokens are the same."""
    return replace(
        first,
        max_context=min(first.max_context, other.max_context),
        sampler_logprobs=first.sampler_logprobs and other.sampler_logprobs,
        keyed_streams=first.keyed_streams and other.keyed_streams,
        guides=first.guides and other.guides,
        guided_logprobs=first.guided_logprobs and other.guided_logprobs,
        proposes=first.proposes and other.proposes,
        images=first.images and other.images,
    )
