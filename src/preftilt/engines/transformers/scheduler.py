"""Continuous batching: every step prefills a chunk, scores what is ready, and draws one token for every row.

Rows of all requests share the forwards; each request is done when its own rows are, so requests do not wait for each
other. Everything here runs on the engine's one worker thread (``worker.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from preftilt.engines.transformers.extend import ExtendSegment
from preftilt.engines.transformers.jobs import (
    DrawJob,
    Job,
    NormaliseJob,
    PrefixState,
    ProposeJob,
    ScoreJob,
)
from preftilt.engines.transformers.prefill import (
    Prefill,
    forward_segments,
    next_segments,
    start_prompt,
    start_tail,
)
from preftilt.engines.transformers.prefix_cache import (
    CachedPrompt,
    CachedTail,
    CacheKey,
    PrefixCache,
)
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.running_batch import RowLifecycle, RunningBatch
from preftilt.engines.transformers.sampler import likeliest
from preftilt.engines.transformers.scoring import PreparedScore, normalise, score
from preftilt.engines.worker import rows_by_turn_end, settle
from preftilt.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersLimits:
    """Bounds on a step and on memory.

    max_rows: rows sampled together, a guided one counted once a view. row_bytes: their tails, in the worst case.
    cache_bytes: the prefix cache. prefill_tokens, score_tokens: tokens of one such forward.
    context: tokens of prompt and response.
    """

    max_rows: int
    row_bytes: int
    cache_bytes: int
    prefill_tokens: int
    score_tokens: int
    context: int


class TransformersScheduler:
    """The scheduler of the shared-prefix path: decides what each forward computes."""

    def __init__(
        self, runner: ModelRunner, lifecycle: RowLifecycle, limits: TransformersLimits
    ) -> None:
        self.runner = runner
        self.cache = PrefixCache(limits.cache_bytes)
        self._limits = limits
        self._running = RunningBatch(
            runner, self.cache, lifecycle, capacity=limits.max_rows, memory=limits.row_bytes
        )
        self._waiting: list[Job] = []
        self._prefills: dict[CacheKey, Prefill] = {}
        self._draw_queue: list[DrawJob] = []
        self._score_queue: list[ScoreJob | NormaliseJob] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until a job is added."""
        return not (self._waiting or self._draw_queue or self._score_queue or self._running.active)

    def add(self, jobs: Iterable[Job]) -> None:
        """Queue new jobs."""
        for job in jobs:
            known = [self.cache.prompt(state.tokens, state.reader) for state in job.prefix_states]
            self.runner.stats.prompt_hits += sum(prompt is not None for prompt in known)
            self._waiting.append(job)

    def step(self) -> None:
        """One round of forwards. A failure fails the requests it concerns; the others go on."""
        self._drop_cancelled()
        self._fill_caches()
        self._score()
        self._admit()
        self._decode()

    def forget(self) -> None:
        """See :class:`~preftilt.engines.worker.StepScheduler`."""
        self.cache.clear()
        if not self._running.active:
            self._running.clear()

    def abort(self, error: Exception) -> None:
        """Fail and drop every request."""
        for job in (*self._waiting, *self._draw_queue, *self._score_queue, *self._running.clear()):
            settle(job.future, error)
        self._waiting, self._draw_queue, self._score_queue = [], [], []
        self._prefills.clear()

    def _drop_cancelled(self) -> None:
        self._waiting = [job for job in self._waiting if not job.future.done()]
        self._draw_queue = [job for job in self._draw_queue if not job.future.done()]
        self._score_queue = [job for job in self._score_queue if not job.future.done()]
        self._running.drop_cancelled()

    def _fill_caches(self) -> None:
        """Queue the requests whose prefixes are cached; prefill one chunk for the others."""
        waiting_for = self._sort_queue()
        self._prefills = {
            key: prefill for key, prefill in self._prefills.items() if key in waiting_for
        }
        if not self._prefills:
            return
        for keys in self._prefills_by_model():
            prefills = [self._prefills[key] for key in keys]
            segments = next_segments(prefills, self._limits.prefill_tokens)
            self._prefill_chunk(keys[: len(segments)], segments, waiting_for)
        self._sort_queue()

    def _prefills_by_model(self) -> list[list[CacheKey]]:
        """The prefills, grouped by model."""
        keys_by_runner: dict[ModelRunner, list[CacheKey]] = {}
        for key in self._prefills:
            keys_by_runner.setdefault(self.runner.runner_of(key[0]), []).append(key)
        return list(keys_by_runner.values())

    def _prefill_chunk(
        self,
        keys: Sequence[CacheKey],
        segments: Sequence[ExtendSegment],
        waiting_for: Mapping[CacheKey, Sequence[Job]],
    ) -> None:
        """One forward for several prefills; if it fails, one each, and a failure then fails its own requests."""
        results = None
        try:
            prefills = [self._prefills[key] for key in keys]
            results = forward_segments(
                prefills, segments, self.runner.runner_of(keys[0][0]), self.cache
            )
        except Exception as error:
            if len(keys) == 1:
                del self._prefills[keys[0]]
                for job in waiting_for[keys[0]]:
                    settle(job.future, failure("prefilling a prompt", error))
                self._drop_cancelled()
        if results is not None:
            self._distribute_caches(dict(zip(keys, results, strict=True)), waiting_for)
        elif len(keys) > 1:  # Outside the handler the memory of the failed forward is free again.
            for key, segment in zip(keys, segments, strict=True):
                self._prefill_chunk([key], [segment], waiting_for)

    def _distribute_caches(
        self,
        results: Mapping[CacheKey, Prefill | CachedPrompt | CachedTail],
        waiting_for: Mapping[CacheKey, Sequence[Job]],
    ) -> None:
        """Hand finished caches to the requests that waited: they may be evicted from the prefix cache at any time."""
        for key, result in results.items():
            if not isinstance(result, (CachedPrompt, CachedTail)):
                self._prefills[key] = result
                continue
            del self._prefills[key]
            for state in [state for job in waiting_for[key] for state in job.prefix_states]:
                if (state.reader, state.tokens) != key[:2]:
                    continue
                if isinstance(result, CachedPrompt):
                    state.prompt = result
                else:
                    state.tail = result

    def _sort_queue(self) -> dict[CacheKey, list[Job]]:
        """Move requests that are ready to their queues; returns the jobs that still wait, by missing cache."""
        waiting_for: dict[CacheKey, list[Job]] = {}
        still_waiting: list[Job] = []
        for job in self._waiting:
            try:
                missing = self._missing_caches(job)
            except Exception as error:
                settle(job.future, failure("placing the images of a prompt", error))
                continue
            for key in missing:
                waiting_for.setdefault(key, []).append(job)
            if missing:
                still_waiting.append(job)
            elif isinstance(job, DrawJob):
                self._draw_queue.append(job)
            elif isinstance(job, ScoreJob | NormaliseJob):
                self._score_queue.append(job)
            else:
                self._propose(job)
        self._waiting = still_waiting
        return waiting_for

    def _missing_caches(self, job: Job) -> list[CacheKey]:
        """The missing caches of a request."""
        keys = (self._missing_cache(state) for state in job.prefix_states)
        return list(dict.fromkeys(key for key in keys if key is not None))

    def _missing_cache(self, state: PrefixState) -> CacheKey | None:
        """The missing cache of a prefix, after starting its prefill; None if there is none."""
        reader, tokens, prefix = state.reader, state.tokens, state.prefix
        if state.prompt is None:
            state.prompt = self.cache.prompt(tokens, reader)
        if state.prompt is None:
            key: CacheKey = (reader, tokens, ())
            if key not in self._prefills:
                self._prefills[key] = start_prompt(tokens, reader, self.cache, self.runner)
            return key
        if not prefix:
            return None
        if state.tail is None:
            state.tail = self.cache.longest_tail(state.prompt, prefix)
        if state.tail and state.tail.tokens == prefix and state.tail.logits is not None:
            return None
        key = (reader, tokens, prefix)
        if key not in self._prefills:
            self._prefills[key] = start_tail(state.prompt, prefix, state.tail)
        return key

    def _propose(self, job: ProposeJob) -> None:
        """Answer at once, and evict the shorter tail that this one was extended from."""
        [state] = job.prefix_states
        settle(job.future, likeliest(state.logits, job.request.count))
        self.cache.evict_tail(state.cache, state.prefix[:-1])

    def _score(self) -> None:
        """Score ready requests of one model, up to the token budget of a forward."""
        batch: list[PreparedScore] = []
        tokens = 0
        while self._score_queue and (not batch or tokens < self._limits.score_tokens):
            job = self._score_queue[0]
            if isinstance(job, NormaliseJob):
                break
            candidate = PreparedScore(job)
            tokens += len(candidate.new)
            if batch and (
                tokens > self._limits.score_tokens or not self._same_model(batch[0], candidate)
            ):
                break
            batch.append(candidate)
            self._score_queue.pop(0)
        if batch:
            self._score_together(batch)
        elif self._score_queue:
            self._normalise(self._score_queue.pop(0))

    def _same_model(self, first: PreparedScore, other: PreparedScore) -> bool:
        """Whether one model computes both."""
        return self.runner.runner_of(first.state.reader) is self.runner.runner_of(
            other.state.reader
        )

    def _normalise(self, job: ScoreJob | NormaliseJob) -> None:
        """One forward for one request, which has several views."""
        assert isinstance(job, NormaliseJob)
        try:
            settle(job.future, normalise(job, self.runner))
        except Exception as error:
            settle(job.future, failure("scoring", error))

    def _score_together(self, batch: Sequence[PreparedScore]) -> None:
        """One forward; if it fails, one per request, so that only the failing request fails."""
        results = None
        try:
            results = score(batch, self.runner.runner_of(batch[0].state.reader), self.cache)
        except Exception as error:
            if len(batch) == 1:
                settle(batch[0].job.future, failure("scoring", error))
        if results is not None:
            for r, logprobs in zip(batch, results, strict=True):
                settle(r.job.future, logprobs)
        elif len(batch) > 1:  # As in _prefill_chunk.
            for prepared in batch:
                self._score_together([prepared])

    def _admit(self) -> None:
        """Admit rows, requests taking turns; the first whose turn does not fit blocks the others."""
        while self._draw_queue:
            job, slots = self._draw_queue[0], len(self._draw_queue[0].request.slots)
            until = rows_by_turn_end(job.started, slots, alone=len(self._draw_queue) == 1)
            try:
                self._running.admit(job, until)
            except Exception as error:
                settle(job.future, failure("starting rows", error))
                self._drop_cancelled()
                continue
            if job.started < until:
                return
            self._draw_queue.pop(0)
            if until < slots:
                self._draw_queue.append(job)

    def _decode(self) -> None:
        if not self._running.active:
            return
        try:
            self._running.step()
        except Exception as error:
            for job in self._running.clear():
                settle(job.future, failure("drawing tokens", error))


def failure(activity: str, error: Exception) -> EngineError:
    """An :class:`EngineError` that names the activity that failed."""
    hint = (
        " Fewer rows at a time (max_rows) need less memory."
        if "memory" in str(error).lower()
        else ""
    )
    wrapped = EngineError(f"the transformers engine failed while {activity}: {error}.{hint}")
    wrapped.__cause__ = error
    return wrapped
