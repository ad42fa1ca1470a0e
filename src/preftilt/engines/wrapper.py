"""The one delegating wrapper: an engine that forwards every call to another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, SampleRequest, ScoreRequest
from preftilt.prompt import ChatTokenizer
from preftilt.types import Completion


@dataclass(slots=True)
class EngineWrapper:
    """Forwards the contract of :class:`~preftilt.engines.base.Engine` to ``inner``; subclasses override parts of it.

    Optional abilities (guided decoding, streams, progress, pings) are not forwarded: a wrapper that changes draws would
    have them bypass it. A subclass adds those that it supports.
    """

    inner: Engine

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
        return await self.inner.sample(requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.inner.score(requests)

    def close(self) -> None:
        self.inner.close()
