"""Work that several callers await: run once, cancelled when nobody waits for it any more.

Cancelling one waiter does not affect the others. A failure is raised to every waiter. When the last waiter is
cancelled, so is the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from preftilt.engines.loop import together
from preftilt.errors import EngineError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedWork(Generic[V]):
    """Starts at once; belongs to the running event loop."""

    def __init__(self, work: Coroutine[Any, Any, V]) -> None:
        self._task = asyncio.ensure_future(work)
        self._waiters = 0
        self._left = False

    @property
    def open(self) -> bool:
        """Whether it is running and can be awaited."""
        return not (self._left or self._task.done())

    async def wait(self) -> V:
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


@dataclass(slots=True)
class ResultCache(Generic[K, V]):
    """Results by key, kept for ever; equal keys, also concurrent ones, are computed once."""

    _results: dict[K, V] = field(default_factory=dict)
    _under_way: dict[K, SharedWork[None]] = field(default_factory=dict)

    async def get(
        self, keys: Sequence[K], work: Callable[[list[K]], Awaitable[Sequence[V]]]
    ) -> list[V]:
        """Results of ``keys``; ``work`` gets those that are not cached or running yet, in one call.

        Raises what the work of a key raises; that key is then computed again when it is requested again.
        """
        missing = [key for key in dict.fromkeys(keys) if key not in self._results]
        new = [key for key in missing if not self._is_under_way(key)]
        if new:
            shared = SharedWork(self._remember(new, work))
            self._under_way.update(dict.fromkeys(new, shared))
        waited_for = dict.fromkeys(self._under_way[key] for key in missing)
        try:
            await together(shared.wait() for shared in waited_for)
        finally:
            for key in missing:
                if not self._is_under_way(key):
                    self._under_way.pop(key, None)
        return [self._results[key] for key in keys]

    def _is_under_way(self, key: K) -> bool:
        return key in self._under_way and self._under_way[key].open

    async def _remember(
        self, keys: list[K], work: Callable[[list[K]], Awaitable[Sequence[V]]]
    ) -> None:
        self._results.update(zip(keys, await work(keys), strict=True))
