"""Toy engines that are slow, or fail on some rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, SampleRequest, ScoreRequest
from preftilt.errors import EngineError
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from preftilt.types import Completion


@dataclass(slots=True)
class Slow:
    """The toy engine, taking ``pause`` seconds a draw, failing on the rows ``fails``, noting ids in ``log``."""

    pause: float = 0.0
    fails: frozenset[str] = frozenset()
    log: Path | None = None
    inner: ToyEngine = field(default_factory=ToyEngine)
    name: str = "toy"
    model: str = "demo"
    closed: bool = False

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def tokenizer(self) -> ToyTokenizer:
        return self.inner.tokenizer

    @property
    def versions(self) -> dict[str, str]:
        return self.inner.versions

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
