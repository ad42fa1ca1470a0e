"""Machines that run the toy engine, and can be switched off: they stand in for servers that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    DrawingRequest,
    Engine,
    EngineInfo,
    GuideRequest,
    Increment,
    Proposal,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
)
from preftilt.errors import EngineError
from preftilt.testing.toy import ToyEngine
from preftilt.types import Completion, GuidedCompletion, Tokens

T = TypeVar("T")


@dataclass(slots=True)
class Machine:
    """Where an engine runs.

    on: it answers; switched off, what it is at breaks off. deaf: it neither works nor answers, and does not say so.
    failure: what its calls raise. pause: seconds of a call.
    """

    name: str
    toy: ToyEngine = field(default_factory=ToyEngine)
    on: bool = True
    deaf: bool = False
    failure: Exception | None = None
    pause: float = 0.0
    increments: int | None = None
    """After how many of them a stream breaks off."""
    opened: int = 0
    prompts: list[Tokens] = field(default_factory=list)
    cancelled: int = 0

    def open(self) -> RunningToy:
        """An engine on it."""
        if not self.on:
            raise EngineError(f"{self.name} cannot be reached")
        self.opened += 1
        return RunningToy(self)

    async def work(self, prompt: Tokens, result: Coroutine[Any, Any, T]) -> T:
        """``result`` after the pause, if the machine lives that long."""
        self.prompts.append(prompt)
        waited = 0.0
        try:
            if self.failure is not None:
                raise self.failure
            while self.deaf or waited < self.pause:
                self.check()
                await asyncio.sleep(0.002)
                waited += 0.002
            self.check()
            return await result
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            result.close()

    def check(self) -> None:
        if not self.on:
            raise EngineError(f"{self.name} broke off in the middle; secret words of the caller")


@dataclass(slots=True)
class RunningToy(Engine):
    """The toy engine on a machine."""

    machine: Machine
    closed: bool = False

    @property
    def info(self) -> EngineInfo:
        versions = {"toy": "1", "machine": self.machine.name}
        return replace(self.machine.toy.info, name=self.machine.name, versions=versions)

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return await self.machine.work(requests[0].prompt, self.machine.toy.sample(requests))

    async def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        assert isinstance(request, SampleRequest)
        await self.machine.work(request.prompt, asyncio.sleep(0))
        left = self.machine.increments
        async for increment in self.machine.toy.stream(request):
            if left == 0:
                raise EngineError(f"{self.name} broke off in the middle of a stream")
            left = left and left - 1
            yield increment

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.machine.work(requests[0].prompt, self.machine.toy.score(requests))

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        prompt = requests[0].views[0].prompt
        return await self.machine.work(prompt, self.machine.toy.guide(requests))

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        return await self.machine.work(requests[0].prompt, self.machine.toy.propose(requests))

    async def ping(self) -> None:
        while self.machine.deaf:
            await asyncio.sleep(0.002)
        if not self.machine.on:
            raise EngineError(f"{self.name} cannot be reached")

    def progress(self, request: Any) -> int:
        return 7 if request.prompt in self.machine.prompts else 0

    def close(self) -> None:
        self.closed = True
