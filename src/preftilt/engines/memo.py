"""An engine that caches its results, for sweeps.

With keyed streams a result is a function of its request, so a tree search at λ = 3 and one at λ = 5 share every step on
which they agree. Results are cached for as long as the wrapper lives; use it for one item or one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.guides import GuideRequest, Guides, Proposal, ProposeRequest, Proposes
from preftilt.engines.loop import together
from preftilt.engines.shared_work import ResultCache
from preftilt.engines.wrapper import EngineWrapper
from preftilt.types import Completion, Guided


@dataclass(slots=True)
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

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        """The engine's, if it has the capability; not cached: no two sweep values share a request."""
        assert isinstance(self.inner, Guides)
        return await self.inner.guide(requests)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """The engine's, if it has the capability; not cached."""
        assert isinstance(self.inner, Proposes)
        return await self.inner.propose(requests)

    async def _sample_one(self, request: SampleRequest) -> list[Completion]:
        async def draw(missing: Sequence[SampleRequest]) -> list[Completion]:
            slots = tuple(slot for each in missing for slot in each.slots)
            [completions] = await self.inner.sample([replace(request, slots=slots)])
            return completions

        return await self._samples.get(
            [replace(request, slots=(slot,)) for slot in request.slots], draw
        )
