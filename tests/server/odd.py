"""An engine that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    DrawingRequest,
    Engine,
    EngineInfo,
    Increment,
    SampleRequest,
    ScoreRequest,
)
from preftilt.testing.toy import ToyEngine
from preftilt.types import Completion
from tests.cli.toys import sampling_alone


@dataclass(slots=True)
class Odd(Engine):
    """The toy engine, slow by ``pause`` seconds a call, or failing with ``failure``; counts cancelled calls.

    A call goes on when ``may_go_on`` is set, as it is unless a test clears it.
    """

    pause: float = 0.0
    failure: Exception | None = None
    inner: ToyEngine = field(default_factory=ToyEngine)
    requests: list[SampleRequest] = field(default_factory=list)
    cancelled: int = 0
    closed: bool = False
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_go_on.set()

    @property
    def info(self) -> EngineInfo:
        return sampling_alone(self.inner.info)

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        self.requests.extend(requests)
        if self.failure is not None:
            raise self.failure
        await self._wait()
        return await self.inner.sample(requests)

    async def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        """A pause before each moment at which tokens come."""
        assert isinstance(request, SampleRequest)
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        place = 0
        async for increment in self.inner.stream(request):
            if increment.start == place:
                place += 1
                await self._wait()
            yield increment

    async def _wait(self) -> None:
        try:
            await asyncio.sleep(self.pause)
            while not self.may_go_on.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.inner.score(requests)

    def close(self) -> None:
        self.closed = True
