"""vLLM in this process as an engine: the contract of ``engines/base.py`` over the worker's sequences."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from itertools import islice
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
from preftilt.engines.lockstep.groups import GroupDrawing
from preftilt.engines.lockstep.limits import GroupLimits, RowSemaphore
from preftilt.engines.vllm.sequences import (
    FirstTokenScore,
    NotComputed,
    SampleSequence,
    ScoreSequence,
)
from preftilt.engines.vllm.worker import Submits
from preftilt.engines.vocabulary import Vocabulary
from preftilt.engines.waiting import Channel, together
from preftilt.errors import BadInput, EngineError
from preftilt.types import Completion, GuidedCompletion, Tokens

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
"""Temperatures besides 0 that vLLM draws at; it would silently raise a lower one, and refuses a higher one."""


class VllmEngine(Engine):
    """Samples and scores with one model in vLLM; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.vllm.open_vllm`. ``block_size`` is the number of tokens in a block of vLLM's
    cache, or None if scores must not use the prefix cache; ``limits`` are those of guided decoding, None if it cannot
    guide; ``seeded``: whether draws have seeds. With seeds the same request draws the same tokens as long as its batch
    is the same; in another batch, sums are rounded differently and a draw can differ.
    """

    def __init__(
        self,
        info: EngineInfo,
        worker: Submits,
        vocabulary: Vocabulary,
        block_size: int | None,
        limits: GroupLimits | None = None,
        *,
        seeded: bool = True,
    ) -> None:
        self._info = info
        self._checker = RequestChecker(info.model, info.capabilities, vocabulary.size)
        self._worker = worker
        self._vocabulary = vocabulary
        self._block_size = block_size
        self._seeded = seeded
        self._limits = limits
        self._row_semaphore = RowSemaphore(limits.rows if limits else 0)
        self._under_way: dict[int, Sequence[SampleSequence | ScoreSequence | GroupDrawing]] = {}
        self._finalizer = weakref.finalize(self, worker.close)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`.

        A response that reaches the model's context ends there with ``length``. Raises
        :class:`~preftilt.errors.PromptTooLong` and :class:`~preftilt.errors.BadInput` before anything is drawn.
        """
        for request in requests:
            self._check_sample(request)
        drawings = [
            [
                SampleSequence(request, slot, self._vocabulary, self._seeded)
                for slot in request.slots
            ]
            if request.max_tokens
            else []
            for request in requests
        ]
        work = [sequence for each in drawings for sequence in each]
        with self._tracked(requests, drawings):
            self._worker.submit(work)
            drawn = iter(await _results([sequence.future for sequence in work]))
        return [
            list(islice(drawn, len(each))) if request.max_tokens else request.without_tokens()
            for each, request in zip(drawings, requests, strict=True)
        ]

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        """See :class:`~preftilt.engines.base.Engine`; the views of a response are a group of ``engines/lockstep``.

        Errors, and the end of the context (that of the longest view), are as in :meth:`sample`.
        """
        drawings = [self._groups(request) for request in requests]
        with self._tracked(requests, drawings):
            work = [self._draw_group(group) for groups in drawings for group in groups]
            drawn = iter(await together(work))
        return [list(islice(drawn, len(groups))) for groups in drawings]

    def _groups(
        self, request: GuideRequest, on_increment: Callable[[Increment], None] | None = None
    ) -> list[GroupDrawing]:
        """A group for every slot, once the request has passed all checks."""
        check_guide(request)
        for view in request.views:
            self._checker.check_sample(request.as_sample(view))
            self._checker.check_reader(view.reader)
        longest = max(len(view.prompt) for view in request.views) + len(request.prefix)
        room = self.capabilities.max_context - longest
        if self._limits is None:
            raise BadInput(
                f"{self.name} does not guide; leave out vllm: (the embedded engine does)"
            )
        self._limits.check(request, min(request.max_tokens, room))
        return [
            GroupDrawing(request, slot, self._vocabulary, room, on_increment)
            for slot in request.slots
        ]

    async def _draw_group(self, group: GroupDrawing) -> GuidedCompletion:
        async with self._row_semaphore.hold(len(group.request.views)):
            return await group.draw(self._worker.submit)

    async def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.base.Engine`; errors are those of :meth:`sample` and :meth:`guide`."""
        channel: Channel[Increment] = Channel()
        if isinstance(request, GuideRequest):
            groups = self._groups(request, channel.put)
            with self._tracked([request], [groups]):
                work = asyncio.ensure_future(together(map(self._draw_group, groups)))
                async with aclosing(channel.until(work)) as increments:
                    async for increment in increments:
                        yield increment
            return
        self._check_sample(request)
        if not (request.slots and request.max_tokens):
            for increment in whole_responses(request, request.without_tokens()):
                yield increment
            return
        drawings = [
            SampleSequence(request, slot, self._vocabulary, self._seeded, on_increment=channel.put)
            for slot in request.slots
        ]
        with self._tracked([request], [drawings]):
            self._worker.submit(drawings)
            work = asyncio.ensure_future(_results([drawing.future for drawing in drawings]))
            async with aclosing(channel.until(work)) as increments:
                async for increment in increments:
                    yield increment

    def _check_sample(self, request: SampleRequest) -> None:
        self._checker.check_sample(request)
        temperature = request.sampling.temperature
        if temperature and not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
            raise BadInput(
                f"temperature is {temperature}; vLLM draws at 0 (greedy) or from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
            )

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """See :class:`~preftilt.engines.base.Engine`. An empty completion scores as an empty array."""
        if self.capabilities.unscored:
            raise BadInput(self.capabilities.unscored)
        for request in requests:
            self._checker.check_score(request)
        results: dict[int, np.ndarray | NotComputed] = {
            i: NotComputed() for i, request in enumerate(requests) if request.completion
        }
        for shared in (True, False) if self._block_size else (False,):
            missing = [i for i, row in results.items() if isinstance(row, NotComputed)]
            rows = await self._score_once([requests[i] for i in missing], shared=shared)
            results.update(zip(missing, rows, strict=True))
        return [
            _require_computed(results[i]) if i in results else np.empty(0)
            for i in range(len(requests))
        ]

    async def _score_once(
        self, requests: Sequence[ScoreRequest], *, shared: bool
    ) -> list[np.ndarray | NotComputed]:
        """Log-probs of every request, or :class:`NotComputed`."""
        first_tokens: dict[tuple[Tokens, int], FirstTokenScore] = {}
        readings: list[ScoreSequence] = []
        for request in requests:
            context = request.prompt + request.prefix
            skipped = int(
                shared and self._block_size is not None and len(context) % self._block_size == 0
            )
            readings.append(ScoreSequence(context, request.completion, shared, skipped))
            if skipped:
                key = context, request.completion[0]
                first_tokens.setdefault(key, FirstTokenScore(*key))
        work = [*first_tokens.values(), *readings]
        with self._tracked(requests, [[reading] for reading in readings]):
            self._worker.submit(work)
            done = await _results([sequence.future for sequence in work])
        known, rows = dict(zip(first_tokens, done, strict=False)), done[len(first_tokens) :]
        return [
            np.concatenate([[known[reading.context, reading.completion[0]]], row])
            if reading.skipped and not isinstance(row, NotComputed)
            else row
            for reading, row in zip(readings, rows, strict=True)
        ]

    def progress(self, request: object) -> int:
        """See :class:`~preftilt.engines.base.Engine`: counts that the worker keeps anyway."""
        return sum(sequence.done for sequence in self._under_way.get(id(request), ()))

    @contextmanager
    def _tracked(
        self,
        requests: Sequence[SampleRequest | ScoreRequest | GuideRequest],
        sequences: Sequence[Sequence[SampleSequence | ScoreSequence | GroupDrawing]],
    ) -> Iterator[None]:
        """Within the block, :meth:`progress` finds sequences by their requests."""
        by_request = {id(request): each for request, each in zip(requests, sequences, strict=True)}
        self._under_way.update(by_request)
        try:
            yield
        finally:
            for key in by_request:
                self._under_way.pop(key, None)

    def close(self) -> None:
        """Stop vLLM and give back its memory; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        self._finalizer()


async def _results(futures: Sequence[Future[Any]]) -> list[Any]:
    """Results in order; cancelling the caller cancels all, and the first failure cancels the rest."""
    return await together(asyncio.wrap_future(future) for future in futures)


def _require_computed(result: np.ndarray | NotComputed) -> np.ndarray:
    if isinstance(result, NotComputed):
        raise EngineError("vLLM returned no log-probs of given tokens, not even without its cache")
    return result
