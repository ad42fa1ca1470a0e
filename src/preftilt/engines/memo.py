"""An engine that caches its results, for sweeps.

With keyed streams a result is a function of its request, so a tree search at λ = 3 and one at λ = 5 share every step on
which they agree. Results are cached for as long as the wrapper lives; use it for one item or one sweep. Guided
draws are not cached: no two values of a sweep share a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import EngineWrapper, SampleRequest, ScoreRequest
from preftilt.engines.waiting import SharedWork, together
from preftilt.types import Completion

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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


@dataclass(eq=False, slots=True)
class MemoEngine(EngineWrapper):
    """``inner`` with a cache of results; equal requests, also concurrent ones, are made once.

    A cancelled caller does not cancel others that wait for the same result.
    """

    _samples: ResultCache[SampleRequest, Completion] = field(default_factory=lambda: ResultCache())
    _scores: ResultCache[ScoreRequest, Float[np.ndarray, "T"]] = field(
        default_factory=lambda: ResultCache()
    )

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """As the engine's; every slot is cached by itself, so overlapping sets of slots share."""
        return await together(self._sample_one(request) for request in requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """As the engine's; only new requests reach it, in one call."""
        return await self._scores.get(requests, self.inner.score)

    async def _sample_one(self, request: SampleRequest) -> list[Completion]:
        async def draw(missing: Sequence[SampleRequest]) -> list[Completion]:
            slots = tuple(slot for each in missing for slot in each.slots)
            [completions] = await self.inner.sample([replace(request, slots=slots)])
            return completions

        return await self._samples.get(
            [replace(request, slots=(slot,)) for slot in request.slots], draw
        )
