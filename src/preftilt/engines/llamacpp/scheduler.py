"""Continuous batching: every turn is one call of llama.cpp, with whatever there is to forward.

Rows of all requests go first, one token each; then prompts, then given completions, as far as the batch allows. Each
request is done when its own rows are. Everything here runs on the engine's one thread (``worker.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from preftilt.engines.admission import rows_by_turn_end
from preftilt.engines.llamacpp.batch_tasks import (
    BatchTask,
    PrefillTask,
    SampleTask,
    ScoreTask,
    StopCriteria,
    TokenChunk,
)
from preftilt.engines.llamacpp.bindings import LlamaContext
from preftilt.engines.llamacpp.jobs import (
    LlamaJob,
    LlamaSampleJob,
    LlamaScoreJob,
    set_future_error,
    set_future_result,
)
from preftilt.engines.llamacpp.sampler import logprobs_of
from preftilt.engines.llamacpp.sequence_cache import SequenceCache
from preftilt.engines.llamacpp.sequences import LlamaSequence, SequencePool
from preftilt.errors import EngineError
from preftilt.streams import stream_key
from preftilt.types import Tokens

J = TypeVar("J", LlamaSampleJob, LlamaScoreJob)
F = TypeVar("F", SampleTask, ScoreTask)


@dataclass(slots=True)
class LlamaCppStats:
    """Counts since the engine was opened.

    calls: of llama.cpp. forwarded: tokens in them. shared: tokens of prompts and prefixes that were found in the
    cache instead. drawn, scored: tokens of responses.
    """

    calls: int = 0
    forwarded: int = 0
    shared: int = 0
    drawn: int = 0
    scored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppLimits:
    """max_rows: rows drawn together. context: tokens of prompt and response. kept: cells held for later calls."""

    max_rows: int
    context: int
    kept: int


class Admission(Enum):
    """What became of a job that was looked at."""

    BEGUN = 1
    WAITING = 2
    NO_ROOM = 3
    TURN_OVER = 4


@dataclass(slots=True)
class LlamaCppScheduler:
    """Decides what each batch holds. ``holes`` are ids without a token: they take no probability."""

    context: LlamaContext
    ending: StopCriteria
    limits: LlamaCppLimits
    holes: Int[np.ndarray, "H"]
    stats: LlamaCppStats = field(default_factory=LlamaCppStats)
    strands: SequencePool = field(init=False)
    kept: SequenceCache = field(init=False)
    rows: list[SampleTask] = field(default_factory=list)
    readings: list[ScoreTask] = field(default_factory=list)
    growths: dict[Tokens, PrefillTask] = field(default_factory=dict)
    samples: list[LlamaSampleJob] = field(default_factory=list)
    scores: list[LlamaScoreJob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.strands = SequencePool(self.context)
        self.kept = SequenceCache(self.strands, self.limits.kept)

    @property
    def idle(self) -> bool:
        """Nothing to do until a job is added."""
        return not (self.samples or self.scores or self.rows or self.readings)

    def add(self, jobs: Iterable[LlamaJob]) -> None:
        """Take on new requests."""
        for job in jobs:
            if isinstance(job, LlamaSampleJob):
                self.samples.append(job)
            else:
                self.scores.append(job)

    def turn(self) -> None:
        """One batch, and what follows from it."""
        self._drop_cancelled()
        spare = self.context.settings.batch - sum(task.left for task in self.readings)
        self.scores = _advance(
            self.scores, self._begin_score, lambda job: len(job.request.completion), spare
        )
        self._begin_samples()
        forwarded, collected = self._forward(), self._collect()
        if not (forwarded or collected or self.idle):
            raise EngineError("a request waits for room that nobody will give back")

    def forget(self) -> None:
        """Drop what is kept for later calls; what is under way goes on."""
        self.kept.clear()

    def abort(self, error: Exception) -> None:
        """Fail every request, and begin again with an empty context."""
        for job in (
            *self.samples,
            *self.scores,
            *(feed.job for feed in (*self.rows, *self.readings)),
        ):
            set_future_error(job.future, error)
        self.samples, self.scores, self.rows, self.readings = [], [], [], []
        self.growths.clear()
        self.kept.reset()
        self.strands.reset()

    def _drop_cancelled(self) -> None:
        self.samples = [job for job in self.samples if not job.future.done()]
        self.scores = [job for job in self.scores if not job.future.done()]
        self.rows = self._still_wanted(self.rows)
        self.readings = self._still_wanted(self.readings)
        wanted = {job.context for job in (*self.samples, *self.scores)}
        for tokens in self.growths.keys() - wanted:
            self.strands.drop(self.growths.pop(tokens).strand)

    def _still_wanted(self, feeds: Sequence[F]) -> list[F]:
        for feed in feeds:
            if feed.job.future.done():
                self.strands.drop(feed.strand)
        return [feed for feed in feeds if not feed.job.future.done()]

    def _feeds(self) -> list[BatchTask]:
        return [*self.rows, *self.growths.values(), *self.readings]

    def _anchor(self, job: LlamaJob) -> LlamaSequence | Admission:
        """The strand that a job continues, with the logits after it; or why there is none yet."""
        tokens = job.context
        exact = self.kept.anchor(tokens)
        if exact is not None or tokens in self.growths:
            return exact or Admission.WAITING
        nearest, shared = self.kept.nearest(tokens)
        if nearest and not self._make_room(len(tokens) - shared, 1, nearest):
            nearest, shared = (
                None,
                0,
            )  # What is long past the shared beginning may be what is in the way.
        if not nearest and not self._make_room(len(tokens), 1, None):
            return Admission.NO_ROOM
        self.growths[tokens] = PrefillTask(self.strands.fork(nearest, shared), tokens)
        self.stats.shared += shared
        return Admission.WAITING

    def _make_room(self, cells: int, numbers: int, spare: LlamaSequence | None) -> bool:
        """Free so many cells beyond those that are promised to what is under way."""
        promised = sum(feed.left for feed in self._feeds())
        return self.kept.make_room(promised + cells, numbers, spare)

    def _begin_score(self, job: LlamaScoreJob) -> Admission:
        anchor, completion = self._anchor(job), job.request.completion
        if isinstance(anchor, Admission):
            return anchor
        if not self._make_room(len(completion) - 1, 1, anchor):
            return Admission.NO_ROOM
        assert anchor.logits is not None
        first = logprobs_of(anchor.logits[None], np.array(completion[:1]))
        strand = self.strands.fork(anchor, anchor.length)
        self.stats.shared += anchor.length
        self.readings.append(ScoreTask(strand, job, [first]))
        return Admission.BEGUN

    def _begin_samples(self) -> None:
        """Begin rows, requests by turns, until there is no room or nobody can begin one."""
        rows = -1
        while rows < len(self.rows) < self.limits.max_rows:
            rows = len(self.rows)
            self.samples = _advance(
                self.samples,
                self._begin_sample,
                lambda job: self._turn_end(job) - job.started,
                self.limits.max_rows - rows,
            )

    def _turn_end(self, job: LlamaSampleJob) -> int:
        return rows_by_turn_end(job.started, len(job.request.slots), alone=len(self.samples) == 1)

    def _begin_sample(self, job: LlamaSampleJob) -> Admission:
        """Begin as many rows of a request's turn as there is room for."""
        anchor, request = self._anchor(job), job.request
        if isinstance(anchor, Admission):
            return anchor
        limit = min(request.max_tokens, self.limits.context - len(job.context))
        until = self._turn_end(job)
        while job.started < until and len(self.rows) < self.limits.max_rows:
            if not self._make_room(limit - 1, 1, anchor):
                return Admission.NO_ROOM
            assert anchor.logits is not None
            strand = self.strands.fork(anchor, anchor.length)
            key = stream_key(request.stream, request.slots[job.started])
            row = SampleTask(strand, job, job.started, key, limit, self.ending)
            job.started += 1
            self.stats.shared += anchor.length
            row.absorb(anchor.logits[None])
            self.rows.append(row)
        if not job.waiting:
            return Admission.BEGUN
        return Admission.TURN_OVER if job.started == until else Admission.NO_ROOM

    def _forward(self) -> bool:
        """One call of llama.cpp with the next tokens of as many feeds as the batch has room for; False without any."""
        tokens, outputs = self.context.settings.batch, self.context.settings.outputs
        parts: list[tuple[BatchTask, TokenChunk]] = []
        for feed in self._feeds():
            offer = TokenChunk((), 0) if feed.done else feed.offer(tokens, outputs)
            if offer.tokens:
                parts.append((feed, offer))
                tokens -= len(offer.tokens)
                outputs -= offer.outputs
        if not parts:
            return False
        logits = self.context.forward(*_layout(parts))
        logits[:, self.holes] = -np.inf
        self.stats.calls += 1
        start = 0
        for feed, offer in parts:
            self.stats.forwarded += len(offer.tokens)
            self.strands.extend(feed.strand, offer.tokens)
            feed.absorb(logits[start : start + offer.outputs])
            start += offer.outputs
        return True

    def _collect(self) -> bool:
        """Answer what is done, and keep or drop its strands; False if nothing was."""
        for tokens, growth in [*self.growths.items()]:
            if growth.done:
                self.kept.add(self.growths.pop(tokens).strand)
        readings = [task for task in self.readings if task.done]
        rows = [task for task in self.rows if task.done]
        for reading in readings:
            self.readings.remove(reading)
            self.stats.scored += len(reading.job.request.completion)
            self._release(reading.strand, keep=reading.job.request.keep)
            set_future_result(reading.job.future, np.concatenate(reading.logprobs))
        for row in rows:
            self.rows.remove(row)
            self.stats.drawn += len(row.drawn)
            self._release(row.strand, keep=row.job.request.keep)
            row.job.finish(row.index, row.completion)
        return bool(readings or rows)

    def _release(self, strand: LlamaSequence, *, keep: bool) -> None:
        if keep:
            self.kept.add(strand)
        else:
            self.strands.drop(strand)


def _advance(
    queue: Sequence[J], begin: Callable[[J], Admission], weigh: Callable[[J], int], budget: int
) -> list[J]:
    """Begin jobs in the order of the queue while there is room and budget; those that still wait.

    Those whose turn is over wait behind the others. The budget keeps prompts from being read long before there is a
    place for what follows them.
    """
    waiting: list[J] = []
    behind: list[J] = []
    for place, job in enumerate(queue):
        if budget <= 0:
            return [*waiting, *queue[place:], *behind]
        budget -= weigh(job)
        state = begin(job)
        if state is Admission.NO_ROOM:
            return [*waiting, *queue[place:], *behind]
        if state is Admission.WAITING:
            waiting.append(job)
        elif state is Admission.TURN_OVER:
            behind.append(job)
    return [*waiting, *behind]


def _layout(
    parts: Sequence[tuple[BatchTask, TokenChunk]],
) -> tuple[list[int], list[int], list[int], list[bool]]:
    """Tokens, their positions, their sequences, and whether logits are wanted after them."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    wanted: list[bool] = []
    for feed, offer in parts:
        count, length = len(offer.tokens), feed.strand.length
        tokens += offer.tokens
        positions += range(length, length + count)
        sequences += [feed.strand.number] * count
        wanted += [place >= count - offer.outputs for place in range(count)]
    return tokens, positions, sequences, wanted
