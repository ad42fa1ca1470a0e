"""The embedded engine: any causal language model of Hugging Face transformers, on the CPU or a GPU."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from preftilt.engines.base import (
    DrawingRequest,
    Engine,
    EngineInfo,
    GuideRequest,
    Increment,
    NormaliseRequest,
    Proposal,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
    whole_responses,
)
from preftilt.engines.checks import RequestChecker, check_guide, check_normalise
from preftilt.engines.transformers.jobs import (
    Job,
    draw_job,
    normalise_job,
    propose_job,
    score_job,
)
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.scheduler import TransformersScheduler
from preftilt.engines.worker import Worker
from preftilt.errors import BadInput
from preftilt.types import Completion, GuidedCompletion

if TYPE_CHECKING:
    from preftilt.engines.transformers.expanded import ExpandedPath


class TransformersEngine(Engine):
    """Samples and scores with one model; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.transformers.open_transformers`. path: ``shared prefix`` or ``expanded``.
    kernels: how many linear layers are computed in which way, as measured at opening (:mod:`.linears`); empty where
    nothing was to be chosen. stats: counts of what was forwarded, drawn and scored since then.
    """

    def __init__(
        self, info: EngineInfo, runner: ModelRunner, path: TransformersScheduler | ExpandedPath
    ) -> None:
        self._info = info
        self.path = info.versions["attention"]
        self.kernels = runner.kernels
        self.stats = runner.stats
        self._runner = runner
        self._scheduler = path
        self._checker = RequestChecker(info.model, info.capabilities, runner.vocabulary)
        self._worker: Worker[Job] = Worker("transformers", path, within=torch.inference_mode)
        self._finalizer = weakref.finalize(self, Worker.close, self._worker)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        for request in requests:
            self._checker.check_sample(request)
        return await self._draw(requests)

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        """See :class:`~preftilt.engines.base.Engine`; the views of a row share every forward.

        Errors, and the end of the context (that of the longest view), are as in :meth:`sample`.
        """
        for request in requests:
            self._check_guide(request)
        return await self._draw(requests)

    async def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        if isinstance(request, SampleRequest):
            self._checker.check_sample(request)
        else:
            self._check_guide(request)
        if not (request.slots and request.max_tokens):
            for increment in whole_responses(request, request.without_tokens()):
                yield increment
            return
        async with aclosing(self._worker.increments(draw_job(request))) as increments:
            async for increment in increments:
                yield increment

    def _check_guide(self, request: GuideRequest) -> None:
        check_guide(request)
        for view in request.views:
            self._checker.check_sample(request.as_sample(view))
            self._checker.check_reader(view.reader)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """See :class:`~preftilt.engines.base.Engine`; a prefix one token longer than the last costs one forward."""
        for request in requests:
            self._checker.check_propose(request)
        jobs = {i: propose_job(request) for i, request in enumerate(requests)}
        return [*(await self._worker.results(jobs)).values()]

    async def _draw(self, requests: Sequence[DrawingRequest]) -> list[list[Any]]:
        """The completions of every request."""
        drawn = await self._worker.results(
            {
                i: draw_job(request)
                for i, request in enumerate(requests)
                if request.slots and request.max_tokens
            }
        )
        return [drawn.get(i) or request.without_tokens() for i, request in enumerate(requests)]

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        for request in requests:
            self._checker.check_score(request)
        rows = await self._worker.results(
            {i: score_job(request) for i, request in enumerate(requests) if request.completion}
        )
        return [rows.get(i, np.empty(0)) for i in range(len(requests))]

    async def normalise(
        self, requests: Sequence[NormaliseRequest]
    ) -> list[Float[np.ndarray, "R T"]]:
        """See :class:`~preftilt.engines.base.Engine`; the views of a completion share a forward."""
        for request in requests:
            check_normalise(request)
            for read in request.reads:
                self._checker.check_score(read)
            if not request.reads[0].completion:
                raise BadInput("an empty completion has no log-probs to normalise")
        jobs = {i: normalise_job(request) for i, request in enumerate(requests)}
        return [*(await self._worker.results(jobs)).values()]

    def progress(self, request: object) -> int:
        return self._worker.progress(request)

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._worker.forget()

    def close(self) -> None:
        self._finalizer()
