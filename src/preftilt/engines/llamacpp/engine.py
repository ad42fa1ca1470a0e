"""The llama.cpp engine: a GGUF file in this process."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    DrawingRequest,
    Engine,
    EngineInfo,
    GuideRequest,
    Increment,
    SampleRequest,
    ScoreRequest,
    whole_responses,
)
from preftilt.engines.checks import RequestChecker, check_guide
from preftilt.engines.llamacpp.batch_tasks import LlamaDrawJob, LlamaJob, LlamaScoreJob
from preftilt.engines.llamacpp.probe import Agreement
from preftilt.engines.llamacpp.scheduler import LlamaCppScheduler
from preftilt.engines.worker import Worker
from preftilt.types import Completion, GuidedCompletion


class LlamaCppEngine(Engine):
    """Samples and scores with one GGUF file; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.llamacpp.open_llamacpp`. agreement: measured at opening. stats: counts of
    what was forwarded, drawn and scored since then.
    """

    def __init__(
        self, info: EngineInfo, scheduler: LlamaCppScheduler, agreement: Agreement
    ) -> None:
        self._info = info
        self.agreement = agreement
        self.stats = scheduler.stats
        self._limits = scheduler.limits
        self._checker = RequestChecker(info.model, info.capabilities, scheduler.context.model.size)
        self._worker: Worker[LlamaJob] = Worker(
            "llama.cpp",
            scheduler,
            remedy="; fewer rows at a time (max_rows) need less memory",
            last=scheduler.context.close,
        )
        self._finalizer = weakref.finalize(self, Worker.close, self._worker)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return await self._draw(requests)

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        """See :class:`~preftilt.engines.base.Engine`; the views of a response are rows of the same batch.

        Errors, and the end of the context (that of the longest view), are as in :meth:`sample`.
        """
        return await self._draw(requests)

    async def _draw(self, requests: Sequence[DrawingRequest]) -> list[list[Any]]:
        """The responses of every request."""
        for request in requests:
            self._check(request)
        drawn = await self._worker.results(
            {
                i: LlamaDrawJob(request)
                for i, request in enumerate(requests)
                if request.slots and request.max_tokens
            }
        )
        return [drawn.get(i) or request.without_tokens() for i, request in enumerate(requests)]

    def _check(self, request: DrawingRequest) -> None:
        if isinstance(request, SampleRequest):
            self._checker.check_sample(request)
            return
        check_guide(request)
        for view in request.views:
            self._checker.check_sample(request.as_sample(view))
            self._checker.check_reader(view.reader)
        self._limits.check(request)

    async def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        self._check(request)
        if not (request.slots and request.max_tokens):
            for increment in whole_responses(request, request.without_tokens()):
                yield increment
            return
        async with aclosing(self._worker.increments(LlamaDrawJob(request))) as increments:
            async for increment in increments:
                yield increment

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        for request in requests:
            self._checker.check_score(request)
        rows = await self._worker.results(
            {i: LlamaScoreJob(request) for i, request in enumerate(requests) if request.completion}
        )
        return [rows.get(i, np.empty(0)) for i in range(len(requests))]

    def progress(self, request: object) -> int:
        return self._worker.progress(request)

    def close(self) -> None:
        self._finalizer()
