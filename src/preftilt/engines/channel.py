"""A queue from worker threads to the event loop that waits for their items, in order."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Passes items from any thread to the event loop that it was created on, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | _EndOfItems] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Add an item; does nothing if the loop is closed."""
        self._put(item)

    async def until(
        self, work: asyncio.Future[Any] | concurrent.futures.Future[Any]
    ) -> AsyncGenerator[T, None]:
        """The items that ``work`` puts in before it is done, then its exception, if any.

        Closing the generator cancels the work.
        """
        work.add_done_callback(lambda _: self._put(_EndOfItems()))
        try:
            while not isinstance(item := await self._items.get(), _EndOfItems):
                yield item
            work.result()
        finally:
            work.cancel()

    def _put(self, item: T | _EndOfItems) -> None:
        with suppress(RuntimeError):  # The loop is closed, and its tasks with it.
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)


class _EndOfItems:
    """Marks the end of the items."""


async def put_all(items: AsyncGenerator[T, None], channel: Channel[T]) -> None:
    """Put every item into ``channel``."""
    async with aclosing(items):
        async for item in items:
            channel.put(item)
