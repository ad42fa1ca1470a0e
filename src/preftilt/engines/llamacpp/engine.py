"""The llama.cpp engine: a GGUF file in this process."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, SampleRequest, ScoreRequest
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.checks import RequestChecker
from preftilt.engines.guides import GuideRequest
from preftilt.engines.llamacpp.jobs import LlamaJob, LlamaSampleJob, LlamaScoreJob
from preftilt.engines.llamacpp.probe import Agreement
from preftilt.engines.llamacpp.scheduler import LlamaCppScheduler, LlamaCppStats
from preftilt.engines.llamacpp.worker import LlamaCppWorker
from preftilt.engines.loop import together
from preftilt.engines.streaming import Increment, increments_of, whole_responses
from preftilt.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppInfo:
    """Model and settings of an open engine. ``agreement`` was measured at opening."""

    model: str
    versions: dict[str, str]
    agreement: Agreement


class LlamaCppEngine:
    """Samples and scores with one GGUF file; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.llamacpp.open_llamacpp`.
    """

    def __init__(
        self,
        info: LlamaCppInfo,
        scheduler: LlamaCppScheduler,
        tokenizer: HfChatTokenizer,
        capabilities: Capabilities,
    ) -> None:
        self.info = info
        self._tokenizer = tokenizer
        self._capabilities = capabilities
        self._checker = RequestChecker(
            model=info.model,
            max_context=capabilities.max_context,
            vocabulary=scheduler.context.model.size,
        )
        self._stats = scheduler.stats
        self._worker = LlamaCppWorker(scheduler)
        self._under_way: dict[int, LlamaJob] = {}
        self._finalizer = weakref.finalize(self, LlamaCppWorker.close, self._worker)

    @property
    def name(self) -> str:
        """``llamacpp:`` and the file as given."""
        return f"llamacpp:{self.info.model}"

    @property
    def model(self) -> str:
        """The file, as given."""
        return self.info.model

    @property
    def capabilities(self) -> Capabilities:
        """Its abilities, measured when it was opened."""
        return self._capabilities

    @property
    def tokenizer(self) -> HfChatTokenizer:
        """The file's chat template, or the one given, and its vocabulary."""
        return self._tokenizer

    @property
    def versions(self) -> dict[str, str]:
        """Package versions and settings of the computation."""
        return dict(self.info.versions)

    @property
    def stats(self) -> LlamaCppStats:
        """Counts of what was forwarded, drawn and scored since the engine was opened."""
        return self._stats

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`.

        A response that reaches the context's end finishes there with ``length``. Raises
        :class:`~preftilt.errors.PromptTooLong` if there is no room for a single token.
        """
        for request in requests:
            self._checker.check_sample(request)
        jobs = [
            LlamaSampleJob(request) if request.slots and request.max_tokens else None
            for request in requests
        ]
        submitted = [job for job in jobs if job]
        with self._submitted(submitted):
            completions = iter(await together(asyncio.wrap_future(job.future) for job in submitted))
        empty = Completion((), np.empty(0), "length")
        return [
            next(completions) if job else [empty] * len(request.slots)
            for job, request in zip(jobs, requests, strict=True)
        ]

    async def stream(
        self, request: SampleRequest | GuideRequest
    ) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`; errors are those of :meth:`sample`."""
        assert isinstance(request, SampleRequest)
        self._checker.check_sample(request)
        if not (request.slots and request.max_tokens):
            empty = Completion((), np.empty(0), "length")
            for increment in whole_responses(request, [empty] * len(request.slots)):
                yield increment
            return
        async with aclosing(increments_of(LlamaSampleJob(request), self._submitted)) as increments:
            async for increment in increments:
                yield increment

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """See :class:`~preftilt.engines.base.Engine`. An empty completion scores as an empty array."""
        for request in requests:
            self._checker.check_score(request)
        jobs = [LlamaScoreJob(request) if request.completion else None for request in requests]
        submitted = [job for job in jobs if job]
        with self._submitted(submitted):
            completions = iter(await together(asyncio.wrap_future(job.future) for job in submitted))
        return [next(completions) if job else np.empty(0) for job in jobs]

    def progress(self, request: SampleRequest | ScoreRequest) -> int:
        """See :class:`~preftilt.engines.base.ReportsProgress`: a count that the worker keeps anyway."""
        job = self._under_way.get(id(request))
        return job.done if job else 0

    def close(self) -> None:
        """Stop the thread; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        self._finalizer()

    @contextmanager
    def _submitted(self, jobs: Sequence[LlamaJob]) -> Iterator[None]:
        """Submit jobs to the worker; within the block :meth:`progress` finds them by their requests."""
        self._worker.submit(jobs)
        self._under_way.update({id(job.request): job for job in jobs})
        try:
            yield
        finally:
            for job in jobs:
                self._under_way.pop(id(job.request), None)
