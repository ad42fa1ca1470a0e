"""The embedded engine: any causal language model of Hugging Face transformers, on the CPU or a GPU."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float

from preftilt.engines.base import Capabilities, SampleRequest, ScoreRequest
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.checks import RequestChecker
from preftilt.engines.guides import (
    GuideRequest,
    Proposal,
    ProposeRequest,
    as_sample,
    check_guide,
)
from preftilt.engines.loop import together
from preftilt.engines.normalises import NormaliseRequest, check_normalise
from preftilt.engines.streaming import Increment, increments_of, whole_responses
from preftilt.engines.transformers.expanded import ExpandedPath
from preftilt.engines.transformers.image_prompts import ImageTokenizer
from preftilt.engines.transformers.jobs import (
    Job,
    draw_job,
    normalise_job,
    propose_job,
    score_job,
)
from preftilt.engines.transformers.runner import ModelRunner, TransformersStats
from preftilt.engines.transformers.scheduler import TransformersScheduler
from preftilt.engines.transformers.worker import TransformersWorker
from preftilt.errors import BadInput
from preftilt.types import Completion, Guided


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersInfo:
    """Model and settings of an open engine.

    path: ``shared prefix`` or ``expanded``. kernels: how many linear layers are computed in which way, as measured at
    opening (:mod:`.linears`); empty where nothing was to be chosen.
    """

    model: str
    device: str
    dtype: str
    path: str
    kernels: str


class TransformersEngine:
    """Samples and scores with one model; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.transformers.open_transformers`.
    """

    def __init__(
        self,
        info: TransformersInfo,
        runner: ModelRunner,
        path: TransformersScheduler | ExpandedPath,
        tokenizer: HfChatTokenizer | ImageTokenizer,
        capabilities: Capabilities,
    ) -> None:
        self.info = info
        self._runner = runner
        self._tokenizer = tokenizer
        self._capabilities = capabilities
        self._checker = RequestChecker(
            model=info.model,
            max_context=capabilities.max_context,
            vocabulary=runner.vocabulary,
            arms=capabilities.arms,
            images=capabilities.images,
        )
        self._worker = TransformersWorker(path)
        self._under_way: dict[int, Job] = {}
        self._finalizer = weakref.finalize(self, TransformersWorker.close, self._worker)

    @property
    def name(self) -> str:
        """``transformers:`` and the model as given."""
        return f"transformers:{self.info.model}"

    @property
    def model(self) -> str:
        """The model's id or path, as given."""
        return self.info.model

    @property
    def capabilities(self) -> Capabilities:
        """Its abilities, measured when it was opened."""
        return self._capabilities

    @property
    def tokenizer(self) -> HfChatTokenizer | ImageTokenizer:
        """Its chat template and vocabulary."""
        return self._tokenizer

    @property
    def versions(self) -> dict[str, str]:
        """Package versions and how the model runs."""
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": self.info.device,
            "dtype": self.info.dtype,
            "attention": self.info.path,
        }

    @property
    def stats(self) -> TransformersStats:
        """Counts of what was forwarded, drawn and scored since the engine was opened."""
        return self._runner.stats

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`.

        A response that reaches the model's context ends there with ``length``. Raises
        :class:`~preftilt.errors.PromptTooLong` if there is no room for a single token.
        """
        for request in requests:
            self._checker.check_sample(request)
        return await self._draw(requests)

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        """See :class:`~preftilt.engines.guides.Guides`; the views of a row share every forward.

        Errors, and the end of the context (that of the longest view), are as in :meth:`sample`.
        """
        for request in requests:
            self._check_guide(request)
        return await self._draw(requests)

    async def stream(
        self, request: SampleRequest | GuideRequest
    ) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`; errors are those of :meth:`sample` and :meth:`guide`."""
        if isinstance(request, SampleRequest):
            self._checker.check_sample(request)
        else:
            self._check_guide(request)
        if not (request.slots and request.max_tokens):
            for increment in whole_responses(request, _empty_completions(request)):
                yield increment
            return
        async with aclosing(increments_of(draw_job(request), self._submitted)) as increments:
            async for increment in increments:
                yield increment

    def _check_guide(self, request: GuideRequest) -> None:
        check_guide(request)
        for view in request.views:
            self._checker.check_sample(as_sample(request, view))
            self._checker.check_reader(view.reader)

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """See :class:`~preftilt.engines.guides.Proposes`; a prefix one token longer than the last costs one forward."""
        for request in requests:
            self._checker.check_propose(request)
        jobs = [propose_job(request) for request in requests]
        with self._submitted(jobs):
            return await together(asyncio.wrap_future(job.future) for job in jobs)

    async def _draw(self, requests: Sequence[SampleRequest | GuideRequest]) -> list[list[Any]]:
        """The completions of every request."""
        jobs = [
            draw_job(request) if request.slots and request.max_tokens else None
            for request in requests
        ]
        submitted = [job for job in jobs if job]
        with self._submitted(submitted):
            completions = iter(await together(asyncio.wrap_future(job.future) for job in submitted))
        return [
            next(completions) if job else _empty_completions(request)
            for job, request in zip(jobs, requests, strict=True)
        ]

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """See :class:`~preftilt.engines.base.Engine`. An empty completion scores as an empty array."""
        for request in requests:
            self._checker.check_score(request)
        jobs = [score_job(request) for request in requests]
        submitted = [job for job in jobs if job.request.completion]
        with self._submitted(submitted):
            completions = iter(await together(asyncio.wrap_future(job.future) for job in submitted))
        return [next(completions) if job.request.completion else np.empty(0) for job in jobs]

    async def normalise(
        self, requests: Sequence[NormaliseRequest]
    ) -> list[Float[np.ndarray, "R T"]]:
        """See :class:`~preftilt.engines.normalises.Normalises`; the views of a completion share a forward."""
        for request in requests:
            check_normalise(request)
            for read in request.reads:
                self._checker.check_score(read)
            if not request.reads[0].completion:
                raise BadInput("an empty completion has no log-probs to normalise")
        jobs = [normalise_job(request) for request in requests]
        with self._submitted(jobs):
            return await together(asyncio.wrap_future(job.future) for job in jobs)

    def progress(self, request: object) -> int:
        """See :class:`~preftilt.engines.base.ReportsProgress`: reads a count that the worker keeps anyway."""
        job = self._under_way.get(id(request))
        return job.done if job else 0

    @contextmanager
    def _submitted(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Submit jobs to the worker; within the block :meth:`progress` finds them by their requests."""
        self._worker.submit(jobs)
        self._under_way.update({id(job.request): job for job in jobs})
        try:
            yield
        finally:
            for job in jobs:
                self._under_way.pop(id(job.request), None)

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._worker.forget()

    def close(self) -> None:
        """Stop the worker; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        self._finalizer()


def _empty_completions(request: SampleRequest | GuideRequest) -> list[Completion | Guided]:
    """Empty completions, where no token may be drawn."""
    if isinstance(request, SampleRequest):
        return [Completion((), np.empty(0), "length")] * len(request.slots)
    return [Guided((), np.empty((len(request.views), 0)), "length")] * len(request.slots)
