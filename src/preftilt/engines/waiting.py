"""Waiting for work: side by side, in another thread's event loop, and shared by several callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar

from preftilt.errors import EngineError

T = TypeVar("T")

CLOSING_SECONDS = 5.0
"""Time limit for closing connections."""


class LoopThread:
    """An event loop in a thread of its own, which an engine's connections belong to.

    Callers come from many loops (every ``run_sync`` has its own) and from none (opening an engine is synchronous),
    while pooled connections belong to one loop. So all requests run on this loop, and callers wait for them on theirs.
    """

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


class Channel(Generic[T]):
    """Passes items from any thread to the event loop that it was created on, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Add an item; does nothing if the loop is closed."""
        with suppress(RuntimeError):  # The loop is closed, and its tasks with it.
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def until(self, work: asyncio.Future[Any] | Future[Any]) -> AsyncGenerator[T, None]:
        """The items that ``work`` puts in before it is done, then its exception, if any.

        Closing the generator cancels the work.
        """
        end: Any = object()
        work.add_done_callback(lambda _: self.put(end))
        try:
            while (item := await self._items.get()) is not end:
                yield item
            work.result()
        finally:
            work.cancel()


async def put_all(items: AsyncGenerator[T, None], channel: Channel[T]) -> None:
    """Put every item into ``channel``."""
    async with aclosing(items):
        async for item in items:
            channel.put(item)


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """The items of all streams as they come; the first failure ends the others and is raised alone."""
    channel: Channel[T] = Channel()
    work: Coroutine[Any, Any, list[None]] = together(put_all(stream, channel) for stream in streams)
    async with aclosing(channel.until(asyncio.ensure_future(work))) as items:
        async for item in items:
            yield item


class SharedWork(Generic[T]):
    """Work that several callers await: starts at once, in the running event loop, and runs once.

    Cancelling one waiter does not affect the others; a failure is raised to every one. When the last waiter is
    cancelled, so is the work.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.ensure_future(work)
        self._waiters = 0
        self._left = False

    @property
    def open(self) -> bool:
        """Whether it is running and can be awaited."""
        return not (self._left or self._task.done())

    async def wait(self) -> T:
        """Its result, or its exception; if the last waiter is cancelled, the work is cancelled and waited for."""
        self._waiters += 1
        try:
            await asyncio.wait([self._task])  # Unlike await, this does not cancel the task.
        finally:
            self._waiters -= 1
            if not self._waiters and not self._task.done():
                self._left = True
                self._task.cancel()
                await asyncio.wait([self._task])
        if self._task.cancelled():
            raise EngineError("what several callers waited for was cancelled; ask again")
        return self._task.result()
