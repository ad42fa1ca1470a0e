"""Work that several callers wait for: done once, ended when nobody waits for it any more.

Whoever waits may be cancelled, and that is nobody else's matter: the work goes on for the others. A failure is every
waiter's. With the last waiter the work ends, too, because nobody would read what it costs.
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
    """Begins at once; belongs to the running event loop."""

    def __init__(self, work: Coroutine[Any, Any, V]) -> None:
        self._task = asyncio.ensure_future(work)
        self._waiters = 0
        self._left = False

    @property
    def open(self) -> bool:
        """Whether it is under way, and may be waited for."""
        return not (self._left or self._task.done())

    async def wait(self) -> V:
        """Its result, or its failure; the last one who leaves before it is done waits for its end."""
        self._waiters += 1
        try:
            await asyncio.wait(
                [self._task]
            )  # Which it does not cancel when it is cancelled itself.
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
    """Results by key, kept for ever; equal keys, also at the same time, are worked for once."""

    _results: dict[K, V] = field(default_factory=dict)
    _under_way: dict[K, SharedWork[None]] = field(default_factory=dict)

    async def get(
        self, keys: Sequence[K], work: Callable[[list[K]], Awaitable[Sequence[V]]]
    ) -> list[V]:
        """Results of ``keys``; ``work`` is given those that nobody has asked for yet, in one call.

        Raises what the work of a key raises; that key is then worked for again when it is asked for again.
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
