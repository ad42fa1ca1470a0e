"""From whoever does the work to the event loop that waits for it: items one by one, in order, from any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Takes items from any thread to the event loop that it is made on, in order."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | _End] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Hand an item over; nothing happens if nobody can wait for it any more."""
        self._put(item)

    async def until(
        self, work: asyncio.Future[Any] | concurrent.futures.Future[Any]
    ) -> AsyncGenerator[T, None]:
        """The items that ``work`` puts in before it is done; its failure comes after them.

        Closing the generator cancels the work.
        """
        work.add_done_callback(lambda _: self._put(_End()))
        try:
            while not isinstance(item := await self._items.get(), _End):
                yield item
            work.result()
        finally:
            work.cancel()

    def _put(self, item: T | _End) -> None:
        with suppress(RuntimeError):  # The loop is closed, and its tasks with it.
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)


class _End:
    """Comes after the last item."""


async def put_all(items: AsyncGenerator[T, None], channel: Channel[T]) -> None:
    """Put every item into ``channel``."""
    async with aclosing(items):
        async for item in items:
            channel.put(item)
