"""Optional ability of an :class:`~preftilt.engines.base.Engine`: streaming completions token by token.

One request to the engine, which can be watched, and ended at any time. Callers use :func:`streamed`; from an engine
that cannot stream it yields whole responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import SampleRequest
from preftilt.engines.channel import Channel, put_all
from preftilt.engines.guides import GuideRequest, Guides
from preftilt.engines.loop import together
from preftilt.types import Completion, Finish, Guided, Tokens

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """What one slot has drawn since its last increment.

    tokens [t] replace the new tokens from position ``start`` on: nearly always they are appended; an engine that gets
    text retokenises it. logprobs: [t], or [K, t] of a guided request. finish:
    set in the last increment of a slot. absent: as in :class:`~preftilt.types.Completion`.
    """

    slot: int
    start: int
    tokens: Tokens
    logprobs: Float[np.ndarray, "*K t"]
    finish: Finish | None = None
    absent: str = ""


@runtime_checkable
class Streams(Protocol):
    """An engine that streams what it draws."""

    def stream(self, request: SampleRequest | GuideRequest) -> AsyncGenerator[Increment, None]:
        """The increments of all slots as they come, each slot's in order.

        Joined they equal the result of ``sample`` (``guide``). Closing the generator ends the drawing, like cancelling
        a call; errors are those of the call.
        """
        ...


class Samples(Protocol):
    """An engine that can sample: every engine."""

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]: ...


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

    def response(self, request: SampleRequest | GuideRequest, finish: Finish) -> Any:
        """The response as ``request`` returns it (``Completion`` or ``Guided``); ``finish`` if it has not ended."""
        tokens, end = tuple(self.tokens), self.finish or finish
        if isinstance(request, SampleRequest):
            logprobs = np.array(self._columns, dtype=np.float64)
            return Completion(tokens, logprobs, end, self.absent)
        columns = np.array(self._columns, dtype=np.float64)
        return Guided(tokens, columns.reshape(len(tokens), len(request.views)).T, end, self.absent)


async def streamed(
    engine: Samples | Streams, request: SampleRequest | GuideRequest
) -> AsyncGenerator[Increment, None]:
    """The increments of ``request``; one a slot, the whole response, from an engine that cannot stream."""
    if isinstance(engine, Streams):
        async with aclosing(engine.stream(request)) as increments:
            async for increment in increments:
                yield increment
        return
    if isinstance(request, SampleRequest):
        [drawn] = await engine.sample([request])
    else:
        assert isinstance(engine, Guides)
        [drawn] = await engine.guide([request])
    for increment in whole_responses(request, drawn):
        yield increment


def whole_responses(
    request: SampleRequest | GuideRequest, drawn: Sequence[Completion | Guided]
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


class StreamedJob(Protocol):
    """A job with a callback for its increments and a future for its result."""

    on_increment: Callable[[Increment], None] | None
    future: Any


async def increments_of(
    job: StreamedJob, submit: Callable[[list[Any]], AbstractContextManager[Any]]
) -> AsyncGenerator[Increment, None]:
    """Submit ``job`` and yield its increments; closing the generator cancels it."""
    channel: Channel[Increment] = Channel()
    job.on_increment = channel.put
    with submit([job]):
        async with aclosing(channel.until(job.future)) as increments:
            async for increment in increments:
                yield increment


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """The items of all streams as they come; the first failure ends the others and is raised alone."""
    channel: Channel[T] = Channel()
    work: Coroutine[Any, Any, list[None]] = together(put_all(stream, channel) for stream in streams)
    async with aclosing(channel.until(asyncio.ensure_future(work))) as items:
        async for item in items:
            yield item
