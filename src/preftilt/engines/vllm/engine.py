"""vLLM in this process as an engine: the contract of ``engines/base.py`` over the worker's sequences."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, SampleRequest, ScoreRequest
from preftilt.engines.channel import Channel
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.checks import RequestChecker
from preftilt.engines.guides import GuideRequest
from preftilt.engines.loop import together
from preftilt.engines.streaming import Increment, whole_responses
from preftilt.engines.vllm.sequences import (
    FirstTokenScore,
    NotComputed,
    SampleSequence,
    ScoreSequence,
)
from preftilt.engines.vllm.worker import VllmWorker
from preftilt.engines.vocabulary import Vocabulary
from preftilt.errors import BadInput, EngineError
from preftilt.types import Completion, Tokens

COLDEST, HOTTEST = 0.01, 2.0
"""Temperatures besides 0 that vLLM draws at; it would raise a lower one without a word, and refuses a higher one."""


class VllmEngine:
    """Samples and scores with one model in vLLM; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.vllm.open_vllm`. ``block`` is the number of tokens in a block of vLLM's cache,
    or None if scores may not take prompts from it. The same request draws the same tokens as long as the
    batch around it is the same; in another batch, sums are rounded otherwise and a draw can differ.
    """

    def __init__(
        self,
        readable: RequestChecker,
        worker: VllmWorker,
        tokenizer: HfChatTokenizer,
        vocabulary: Vocabulary,
        capabilities: Capabilities,
        versions: Mapping[str, str],
        block: int | None,
    ) -> None:
        self._readable = readable
        self._worker = worker
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._capabilities = capabilities
        self._versions = dict(versions)
        self._block = block
        self._under_way: dict[int, Sequence[SampleSequence | ScoreSequence]] = {}
        self._finalizer = weakref.finalize(self, VllmWorker.close, worker)

    @property
    def name(self) -> str:
        """``vllm:`` and the model as given."""
        return f"vllm:{self._readable.model}"

    @property
    def model(self) -> str:
        """The model's id or path, as given."""
        return self._readable.model

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, measured when it was opened."""
        return self._capabilities

    @property
    def tokenizer(self) -> HfChatTokenizer:
        """Its chat template and vocabulary."""
        return self._tokenizer

    @property
    def versions(self) -> dict[str, str]:
        """Package versions, how the model runs, and how it scores (``shared prefix`` or ``plain``)."""
        return dict(self._versions)

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`.

        A response that reaches the model's context ends there with ``length``. Raises
        :class:`~preftilt.errors.PromptTooLong` and :class:`~preftilt.errors.BadInput` before anything is drawn.
        """
        for request in requests:
            self._check_sample(request)
        drawings = [
            [SampleSequence(request, slot, self._vocabulary) for slot in request.slots]
            if request.max_tokens
            else []
            for request in requests
        ]
        work = [sequence for each in drawings for sequence in each]
        with self._known(requests, drawings):
            self._worker.submit(work)
            drawn = iter(await _all([sequence.future for sequence in work]))
        nothing = Completion((), np.empty(0), "length")
        return [
            list(islice(drawn, len(each))) if request.max_tokens else [nothing] * len(request.slots)
            for each, request in zip(drawings, requests, strict=True)
        ]

    async def stream(
        self, request: SampleRequest | GuideRequest
    ) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`; errors are those of :meth:`sample`."""
        assert isinstance(request, SampleRequest)
        self._check_sample(request)
        if not (request.slots and request.max_tokens):
            nothing = Completion((), np.empty(0), "length")
            for increment in whole_responses(request, [nothing] * len(request.slots)):
                yield increment
            return
        channel: Channel[Increment] = Channel()
        drawings = [
            SampleSequence(request, slot, self._vocabulary, told=channel.put)
            for slot in request.slots
        ]
        with self._known([request], [drawings]):
            self._worker.submit(drawings)
            work = asyncio.ensure_future(_all([drawing.future for drawing in drawings]))
            async with aclosing(channel.until(work)) as increments:
                async for increment in increments:
                    yield increment

    def _check_sample(self, request: SampleRequest) -> None:
        self._readable.check_sample(request)
        temperature = request.sampling.temperature
        if temperature and not COLDEST <= temperature <= HOTTEST:
            raise BadInput(
                f"temperature is {temperature}; vLLM draws at 0 (greedy) or from {COLDEST} to {HOTTEST}"
            )

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """See :class:`~preftilt.engines.base.Engine`. An empty completion scores as an empty array."""
        for request in requests:
            self._readable.check_score(request)
        results: dict[int, np.ndarray | NotComputed] = {
            i: NotComputed() for i, request in enumerate(requests) if request.completion
        }
        for shared in (True, False) if self._block else (False,):
            missing = [i for i, row in results.items() if isinstance(row, NotComputed)]
            rows = await self._read([requests[i] for i in missing], shared=shared)
            results.update(zip(missing, rows, strict=True))
        return [_row(results[i]) if i in results else np.empty(0) for i in range(len(requests))]

    async def _read(
        self, requests: Sequence[ScoreRequest], *, shared: bool
    ) -> list[np.ndarray | NotComputed]:
        """Log-probs of every request, or that they could not be had this way."""
        firsts: dict[tuple[Tokens, int], FirstTokenScore] = {}
        readings: list[ScoreSequence] = []
        for request in requests:
            before = request.prompt + request.prefix
            skip = int(shared and self._block is not None and len(before) % self._block == 0)
            readings.append(ScoreSequence(before, request.completion, shared, skip))
            if skip:
                key = before, request.completion[0]
                firsts.setdefault(key, FirstTokenScore(*key))
        work = [*firsts.values(), *readings]
        with self._known(requests, [[reading] for reading in readings]):
            self._worker.submit(work)
            done = await _all([sequence.future for sequence in work])
        known, rows = dict(zip(firsts, done, strict=False)), done[len(firsts) :]
        return [
            np.concatenate([[known[reading.before, reading.completion[0]]], row])
            if reading.skip and not isinstance(row, NotComputed)
            else row
            for reading, row in zip(readings, rows, strict=True)
        ]

    def progress(self, request: SampleRequest | ScoreRequest) -> int:
        """See :class:`~preftilt.engines.base.ReportsProgress`: counts that the thread keeps anyway."""
        return sum(sequence.done for sequence in self._under_way.get(id(request), ()))

    @contextmanager
    def _known(
        self,
        requests: Sequence[SampleRequest | ScoreRequest],
        sequences: Sequence[Sequence[SampleSequence | ScoreSequence]],
    ) -> Iterator[None]:
        """While they are under way, :meth:`progress` finds sequences by their requests."""
        here = {id(request): each for request, each in zip(requests, sequences, strict=True)}
        self._under_way.update(here)
        try:
            yield
        finally:
            for key in here:
                self._under_way.pop(key, None)

    def close(self) -> None:
        """Stop vLLM and give back its memory; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        self._finalizer()


async def _all(futures: Sequence[Future[Any]]) -> list[Any]:
    """Results in order; whoever is cancelled here cancels them, and the first failure cancels the rest."""
    return await together(asyncio.wrap_future(future) for future in futures)


def _row(result: np.ndarray | NotComputed) -> np.ndarray:
    if isinstance(result, NotComputed):
        raise EngineError("vLLM returned no log-probs of given tokens, not even without its cache")
    return result
