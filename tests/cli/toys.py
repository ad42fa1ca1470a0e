"""Toy engines that are slow, or fail on some rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, EngineInfo, SampleRequest, ScoreRequest
from preftilt.errors import EngineError
from preftilt.messages import Message
from preftilt.prompt import Moment, requested_moment
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from preftilt.types import Completion, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated(ToyTokenizer):
    """Its prompts show the day: ``fixed``, the request's, or that of ``opened``."""

    fixed: datetime | None = None
    opened: datetime = datetime(2026, 11, 28, 10)

    @property
    def moment(self) -> Moment:
        now = self.fixed or requested_moment() or self.opened
        return Moment(now, (f"{now:%d %b %Y}",))

    def render(self, messages: Sequence[Message]) -> Tokens:
        # Two arguments, since a dataclass with slots is another class than the one its methods were written in.
        return ToyTokenizer.render(self, [*messages, Message("user", " ".join(self.moment.shown))])


def sampling_alone(info: EngineInfo) -> EngineInfo:
    """That of an engine that samples and scores, and can do nothing else."""
    able = replace(info.capabilities, guides=False, proposes=False, normalises=False)
    return replace(info, capabilities=able)


@dataclass(slots=True)
class Slow(Engine):
    """The toy engine, taking ``pause`` seconds a draw, failing on the rows ``fails``, noting ids in ``log``."""

    pause: float = 0.0
    fails: frozenset[str] = frozenset()
    log: Path | None = None
    inner: ToyEngine = field(default_factory=ToyEngine)
    closed: bool = False

    @property
    def info(self) -> EngineInfo:
        return replace(sampling_alone(self.inner.info), model="demo")

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        for request in requests:
            if request.stream.item in self.fails:
                raise EngineError(f"the toy broke on {request.stream.item}")
            if self.log is not None:
                with self.log.open("a") as log:
                    log.write(request.stream.item + "\n")
        await asyncio.sleep(self.pause)
        return await self.inner.sample(requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.inner.score(requests)

    def close(self) -> None:
        self.closed = True
