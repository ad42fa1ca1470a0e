"""Replicas as one engine: the contract of ``engines/base.py`` over several engines of the same model."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, ReportsProgress, SampleRequest, ScoreRequest
from preftilt.engines.channel import Channel
from preftilt.engines.facts import Fact, Probed, ReplicaStatus
from preftilt.engines.guides import (
    GuideRequest,
    Guides,
    Proposal,
    ProposeRequest,
    Proposes,
    can_guide,
    can_propose,
    check_guide,
)
from preftilt.engines.loop import LoopThread, together
from preftilt.engines.replicas.health import WatchIntervals, watch_replica
from preftilt.engines.replicas.identity import ModelIdentity
from preftilt.engines.replicas.replica import Replica
from preftilt.engines.replicas.routing import choose_replica
from preftilt.engines.streaming import Increment, streamed
from preftilt.errors import BadInput, EngineError, EngineTimeout, PromptTooLong
from preftilt.prompt import ChatTokenizer
from preftilt.types import Completion, Guided, Tokens

T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D", SampleRequest, GuideRequest)

TRIES = 3
"""Replicas that are given the same work at most: a request that brings down whoever takes it shall not reach all."""


@dataclass(frozen=True, slots=True)
class RoutedRequest(Generic[R]):
    """A request, the prompt whose cache it wants, and how many sequences it makes."""

    prompt: Tokens
    weight: int
    request: R


class Replicas:
    """Gives every request to one of several engines of the same model; made by
    :func:`~preftilt.engines.replicas.start_replicas.open_replicas`.

    All requests of one prompt go to the same replica, where its prefix is in the cache, unless that one has more than
    its share of work. What a lost replica was at is done by another: the whole call, from its beginning. With keyed
    streams it draws the same tokens there. Without (servers), it is asked with the same seeds, and draws the same as
    far as the servers keep to them; it is a fair draw in any case, because nothing of the lost one is used.
    """

    def __init__(
        self,
        loop: LoopThread,
        replicas: Sequence[Replica],
        first: Engine,
        common: ModelIdentity,
        pace: WatchIntervals,
        free: int,
        tokenizer: ChatTokenizer,
    ) -> None:
        self._loop = loop
        self._replicas = tuple(replicas)
        self._common = common
        self._free = free
        self._tokenizer = tokenizer
        self._probed = (first.facts, first.plan) if isinstance(first, Probed) else ((), ())
        self._finalizer = weakref.finalize(
            self, LoopThread.close, loop, lambda: close_all(replicas)
        )
        for replica in replicas:
            loop.start(watch_replica(replica, common, pace))

    @property
    def name(self) -> str:
        """The names of all, with commas between them."""
        return ",".join(replica.name for replica in self._replicas)

    @property
    def model(self) -> str:
        """The model that all of them hold."""
        return self._common.model

    @property
    def capabilities(self) -> Capabilities:
        """What every one of them can do."""
        return self._common.capabilities

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The chat template and vocabulary that all of them share."""
        return self._tokenizer

    @property
    def versions(self) -> dict[str, str]:
        """Versions of those that are there now; where they differ, all of them."""
        values_by_name: dict[str, dict[str, None]] = {}
        for engine in self._engines():
            for name, value in engine.versions.items():
                values_by_name.setdefault(name, {})[value] = None
        return {name: ", ".join(values) for name, values in values_by_name.items()}

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Which replicas answer, and what the probe of the first one found out."""
        answering = tuple(
            Fact(status.name, "answers" if status.up else "does not answer", status.reason)
            for status in self.replica_statuses
        )
        return (*answering, *self._probed[0])

    @property
    def plan(self) -> tuple[str, ...]:
        """How the first one draws and scores, and who does it."""
        return (*self._probed[1], f"replicas: {len(self._replicas)}, by the prompt's tokens")

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """How each of them does."""
        return tuple(replica.standing for replica in self._replicas)

    def progress(self, request: object) -> int:
        """See :class:`~preftilt.engines.base.ReportsProgress`; 0 from replicas that cannot say."""
        able = [engine for engine in self._engines() if isinstance(engine, ReportsProgress)]
        return sum(engine.progress(request) for engine in able)

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`."""
        for request in requests:
            self._check_room(request.prompt, len(request.prefix) + 1)
        tasks = [
            RoutedRequest(
                request.prompt, len(request.slots), self._fitting(request, request.prompt)
            )
            for request in requests
        ]
        return await self._wait(tasks, lambda engine, part: engine.sample(part))

    def stream(self, request: SampleRequest | GuideRequest) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`: as the replica that the prompt belongs to can.

        If it fails before anything has come, another one does it; afterwards its failure is the stream's.
        """
        if isinstance(request, SampleRequest):
            self._check_room(request.prompt, len(request.prefix) + 1)
            fitting = self._fitting(request, request.prompt)
            task = RoutedRequest(request.prompt, len(request.slots), fitting)
        else:
            task = self._guide_task(request)
        return self._loop.stream(lambda: self._stream(task))

    async def _stream(
        self, task: RoutedRequest[SampleRequest] | RoutedRequest[GuideRequest]
    ) -> AsyncGenerator[Increment, None]:
        begun = False

        async def pass_on(engine: Engine) -> None:
            nonlocal begun
            async with aclosing(streamed(engine, task.request)) as increments:
                async for increment in increments:
                    begun = True
                    channel.put(increment)

        channel: Channel[Increment] = Channel()
        work = self._carry_out(task.prompt, pass_on, task.weight, again=lambda: not begun)
        async with aclosing(channel.until(asyncio.ensure_future(work))) as increments:
            async for increment in increments:
                yield increment

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """See :class:`~preftilt.engines.base.Engine`."""
        for request in requests:
            self._check_room(request.prompt, len(request.prefix) + len(request.completion))
        tasks = [RoutedRequest(request.prompt, 1, request) for request in requests]
        return await self._wait(tasks, lambda engine, part: engine.score(part))

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        """See :class:`~preftilt.engines.guides.Guides`; a request belongs where its first view does."""
        tasks = [self._guide_task(request) for request in requests]
        return await self._wait(tasks, lambda engine, part: _guides(engine).guide(part))

    def _guide_task(self, request: GuideRequest) -> RoutedRequest[GuideRequest]:
        check_guide(request)
        longest = max((view.prompt for view in request.views), key=len)
        self._check_room(longest, len(request.prefix) + 1)
        fitting = self._fitting(request, longest)
        return RoutedRequest(request.views[0].prompt, len(request.slots), fitting)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """See :class:`~preftilt.engines.guides.Proposes`."""
        for request in requests:
            self._check_room(request.prompt, len(request.prefix) + 1)
        tasks = [RoutedRequest(request.prompt, 1, request) for request in requests]
        return await self._wait(tasks, lambda engine, part: _proposes(engine).propose(part))

    def close(self) -> None:
        """Close all; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        self._finalizer()

    async def _wait(
        self,
        tasks: Sequence[RoutedRequest[R]],
        work: Callable[[Engine, list[R]], Coroutine[Any, Any, list[T]]],
    ) -> list[T]:
        return await self._loop.wait(lambda: self._share_out(tasks, work))

    async def _share_out(
        self,
        tasks: Sequence[RoutedRequest[R]],
        work: Callable[[Engine, list[R]], Coroutine[Any, Any, list[T]]],
    ) -> list[T]:
        """One call for every prompt, side by side; results in order."""
        groups: dict[Tokens, list[int]] = {}
        for i, task in enumerate(tasks):
            groups.setdefault(task.prompt, []).append(i)

        async def call(prompt: Tokens, members: list[int]) -> list[T]:
            part = [tasks[i].request for i in members]
            weight = sum(tasks[i].weight for i in members)
            return await self._carry_out(prompt, lambda engine: work(engine, part), weight)

        parts = await together(call(prompt, members) for prompt, members in groups.items())
        results_by_index = {
            i: result
            for members, results in zip(groups.values(), parts, strict=True)
            for i, result in zip(members, results, strict=True)
        }
        return [results_by_index[i] for i in range(len(tasks))]

    async def _carry_out(
        self,
        prompt: Tokens,
        work: Callable[[Engine], Coroutine[Any, Any, T]],
        weight: int,
        again: Callable[[], bool] = lambda: True,
    ) -> T:
        """Have it done by the replica that the prompt belongs to; by another if that one fails, and it may be done
        ``again``."""
        tried: list[Replica] = []
        while True:
            replica = await self._choose(prompt, tried, weight)
            try:
                return await replica.run(work, weight)
            except EngineError as failure:
                tried.append(replica)
                if isinstance(failure, EngineTimeout) and await self._is_up(replica):
                    raise  # It works, but takes too long: so would another.
                left = [
                    other
                    for other in self._replicas
                    if other not in tried and other.state != "down"
                ]
                if len(tried) >= TRIES or not left or not again():
                    raise

    async def _choose(self, prompt: Tokens, tried: Sequence[Replica], weight: int) -> Replica:
        while True:
            left = [replica for replica in self._replicas if replica not in tried]
            able = {replica.name: replica for replica in left if replica.state == "up"}
            if able:
                loads = {name: replica.load for name, replica in able.items()}
                return able[choose_replica(prompt, loads, weight, self._free)]
            doubted = [replica for replica in left if replica.state == "doubted"]
            if not doubted:
                reasons = "; ".join(replica.reason for replica in left)
                raise EngineError(f"none of the {len(self._replicas)} replicas answers: {reasons}")
            await doubted[0].settled.wait()

    async def _is_up(self, replica: Replica) -> bool:
        """Whether it is there, once it has been asked."""
        await replica.settled.wait()
        return replica.state == "up"

    def _fitting(self, request: D, prompt: Tokens) -> D:
        """The request, cut to the context that all replicas have: none shall draw more than another would."""
        room = self.capabilities.max_context - len(prompt) - len(request.prefix)
        return request if request.max_tokens <= room else replace(request, max_tokens=room)

    def _check_room(self, prompt: Tokens, more: int) -> None:
        room = self.capabilities.max_context
        needed = len(prompt) + more
        if needed > room:
            raise PromptTooLong(
                f"prompt and response need {needed} tokens, {needed - room} more than the {room} that all replicas of"
                f" {self.model} can read; shorten the prompt or use a model with a longer context"
            )

    def _engines(self) -> list[Engine]:
        return [engine for replica in self._replicas if (engine := replica.engine) is not None]


def _guides(engine: Engine) -> Guides:
    if can_guide(engine):
        return engine
    raise BadInput(f"{engine.name} cannot draw from several views at once; open one that can")


def _proposes(engine: Engine) -> Proposes:
    if can_propose(engine):
        return engine
    raise BadInput(f"{engine.name} does not tell its likeliest next tokens; open one that does")


async def close_all(replicas: Sequence[Replica]) -> None:
    """Close the engines that are open."""
    for replica in replicas:
        if replica.engine is not None:
            replica.engine.close()
