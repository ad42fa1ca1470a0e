"""An engine that never does the same work twice, for sweeps.

With keyed streams a request's answer is a function of the request, so a tree search at λ = 3 and one at λ = 5 share
every step on which they agree. Answers are kept for as long as the wrapper lives; use it for one item or one sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, SampleRequest, ScoreRequest
from preftilt.engines.guides import GuideRequest, Guides, Proposal, ProposeRequest, Proposes
from preftilt.prompt import ChatTokenizer
from preftilt.types import Completion, Guided

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class MemoEngine:
    """``inner`` with a memory; calls that are equal, also at the same time, are made once."""

    inner: Engine
    _samples: dict[SampleRequest, asyncio.Future[list[Completion]]] = field(default_factory=dict)
    _scores: dict[ScoreRequest, asyncio.Future[Float[np.ndarray, "T"]]] = field(
        default_factory=dict
    )

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def model(self) -> str:
        return self.inner.model

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.inner.tokenizer

    @property
    def versions(self) -> dict[str, str]:
        return self.inner.versions

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """As the engine's; every slot is remembered by itself, so overlapping sets of slots share."""
        return [await self._sample_one(request) for request in requests]

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """As the engine's; only requests not seen before reach it, in one call."""
        new = [one for one in dict.fromkeys(requests) if one not in self._scores]
        loop = asyncio.get_running_loop()
        self._scores.update({one: loop.create_future() for one in new})
        if new:
            await _settle(self._scores, new, self.inner.score(new))
        return [await asyncio.shield(self._scores[one]) for one in requests]

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        """The engine's, where its capabilities say that it guides; not remembered: no two sweep values share one."""
        assert isinstance(self.inner, Guides)
        return await self.inner.guide(requests)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """The engine's, where its capabilities say that it proposes; it keeps what it read."""
        assert isinstance(self.inner, Proposes)
        return await self.inner.propose(requests)

    def close(self) -> None:
        self.inner.close()

    async def _sample_one(self, request: SampleRequest) -> list[Completion]:
        loop = asyncio.get_running_loop()
        keys = [replace(request, slots=(slot,)) for slot in request.slots]
        new = [one for one in keys if one not in self._samples]
        self._samples.update({one: loop.create_future() for one in new})
        if new:
            slots = tuple(slot for one in new for slot in one.slots)
            await _settle(self._samples, new, self._draw(replace(request, slots=slots)))
        return [
            completion for one in keys for completion in await asyncio.shield(self._samples[one])
        ]

    async def _draw(self, request: SampleRequest) -> list[list[Completion]]:
        [completions] = await self.inner.sample([request])
        return [[one] for one in completions]


async def _settle(
    memory: dict[K, asyncio.Future[V]], keys: Sequence[K], work: Awaitable[Sequence[V]]
) -> None:
    """Give the futures of ``keys`` the results of ``work``; a failure is their waiters' too, and is forgotten."""
    try:
        for key, result in zip(keys, await work, strict=True):
            memory[key].set_result(result)
    except BaseException as failure:
        for key in keys:
            future = memory.pop(key)
            if isinstance(failure, Exception) and not future.done():
                future.set_exception(failure)
                future.exception()  # Somebody has seen it: the caller of this function.
            else:
                future.cancel()
        raise
