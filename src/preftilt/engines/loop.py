"""An event loop in a thread of its own, which an engine's connections belong to.

Callers come from many loops (every ``run_sync`` has its own) and from none (opening an engine is synchronous), while
pooled connections belong to one loop. So all requests run on this loop, and callers wait for them on theirs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar

from preftilt.engines.channel import Channel, put_all
from preftilt.errors import EngineError

T = TypeVar("T")

CLOSING_SECONDS = 5.0
"""Time limit for closing connections."""


class LoopThread:
    """Runs coroutines for other threads; ``close`` fails running ones and ends the thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="preftilt-loop", daemon=True
        )
        self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for ``work`` from synchronous code; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(self._guarded(work), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def wait(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for ``work`` from any event loop; cancelling the caller cancels it."""
        return await asyncio.wrap_future(self._submit(work))

    async def stream(self, work: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """The items of ``work`` in any event loop; closing the generator or cancelling the caller cancels it."""
        channel: Channel[T] = Channel()
        future = self._submit(lambda: put_all(work(), channel))
        async with aclosing(channel.until(future)) as items:
            async for item in items:
                yield item

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background until it ends or the loop is closed; it handles its own failures."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Fail running work, run ``last``, and stop; idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSING_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    def _submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:
            if self._closing:
                raise EngineError("the engine is closed; open it again")
            return asyncio.run_coroutine_threadsafe(self._guarded(work), self._loop)

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        except asyncio.CancelledError:
            if self._closing:
                raise EngineError("the engine was closed while a call was under way") from None
            raise

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        try:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            async with asyncio.timeout(CLOSING_SECONDS / 2):
                await last()
        finally:
            self._loop.stop()


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order; the first failure cancels the rest, waits for their end and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(awaitable)) for awaitable in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _awaited(work: Awaitable[T]) -> T:
    return await work
