"""Continuous batching: every turn prefills a little, scores what is there, and draws one token for every row.

Rows of all requests share the forwards; each request is done when its own rows are, so neither items nor subtrees
wait for each other. Everything here runs on the engine's one worker thread (``worker.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from preftilt.engines.admission import rows_by_turn_end
from preftilt.engines.transformers.extend import ExtendSegment
from preftilt.engines.transformers.guided_scoring import normalise
from preftilt.engines.transformers.jobs import (
    DrawJob,
    Job,
    NormaliseJob,
    PrefixState,
    ProposeJob,
    ScoreJob,
    settle,
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
from preftilt.engines.transformers.scoring import PreparedScore, score
from preftilt.errors import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersLimits:
    """What bounds a turn and the memory behind it.

    max_rows: rows sampled together, a guided one counted once a view. row_bytes: their tails, in the worst case.
    cache_bytes: prompts and tails kept for later calls. prefill_tokens, score_tokens: tokens of one such forward.
    context: tokens of prompt and response.
    """

    max_rows: int
    row_bytes: int
    cache_bytes: int
    prefill_tokens: int
    score_tokens: int
    context: int


class TransformersScheduler:
    """The shared-prefix path: decides what each forward holds."""

    def __init__(self, runner: ModelRunner, ends: RowLifecycle, limits: TransformersLimits) -> None:
        self.runner = runner
        self.store = PrefixCache(limits.cache_bytes)
        self._limits = limits
        self._rows = RunningBatch(
            runner, self.store, ends, capacity=limits.max_rows, memory=limits.row_bytes
        )
        self._waiting: list[Job] = []
        self._growths: dict[CacheKey, Prefill] = {}
        self._samples: list[DrawJob] = []
        self._scores: list[ScoreJob | NormaliseJob] = []

    @property
    def idle(self) -> bool:
        """Nothing to do until a job is added."""
        return not (self._waiting or self._samples or self._scores or self._rows.live)

    def add(self, jobs: Iterable[Job]) -> None:
        """Take on new requests."""
        for job in jobs:
            known = [self.store.prompt(ground.tokens, ground.reader) for ground in job.grounds]
            self.runner.stats.prompt_hits += sum(prompt is not None for prompt in known)
            self._waiting.append(job)

    def turn(self) -> None:
        """One round of forwards. A failure reaches the requests it concerns; the rest go on."""
        self._drop_cancelled()
        self._fill_caches()
        self._score()
        self._admit()
        self._step()

    def forget(self) -> None:
        """See :class:`~preftilt.engines.transformers.worker.ExecutionPath`."""
        self.store.clear()
        if not self._rows.live:
            self._rows.clear()

    def abort(self, error: Exception) -> None:
        """Fail every request and forget them."""
        for job in (*self._waiting, *self._samples, *self._scores, *self._rows.clear()):
            settle(job.future, error)
        self._waiting, self._samples, self._scores = [], [], []
        self._growths.clear()

    def _drop_cancelled(self) -> None:
        self._waiting = [job for job in self._waiting if not job.future.done()]
        self._samples = [job for job in self._samples if not job.future.done()]
        self._scores = [job for job in self._scores if not job.future.done()]
        self._rows.drop_cancelled()

    def _fill_caches(self) -> None:
        """Send on the requests whose caches are there; forward one chunk for those that wait."""
        wanted = self._sort_waiting()
        self._growths = {key: growth for key, growth in self._growths.items() if key in wanted}
        if not self._growths:
            return
        for keys in self._by_model():
            growths = [self._growths[key] for key in keys]
            segments = next_segments(growths, self._limits.prefill_tokens)
            self._grow(keys[: len(segments)], segments, wanted)
        self._sort_waiting()

    def _by_model(self) -> list[list[CacheKey]]:
        """The caches to be filled, those of one model together."""
        keys_by_runner: dict[ModelRunner, list[CacheKey]] = {}
        for key in self._growths:
            keys_by_runner.setdefault(self.runner.of(key[0]), []).append(key)
        return list(keys_by_runner.values())

    def _grow(
        self,
        keys: Sequence[CacheKey],
        segments: Sequence[ExtendSegment],
        wanted: Mapping[CacheKey, Sequence[Job]],
    ) -> None:
        """One forward for several caches; if it fails, each by itself, and what fails then fails its own requests."""
        made = None
        try:
            growths = [self._growths[key] for key in keys]
            made = forward_segments(growths, segments, self.runner.of(keys[0][0]), self.store)
        except Exception as error:
            if len(keys) == 1:
                del self._growths[keys[0]]
                for job in wanted[keys[0]]:
                    settle(job.future, failure("prefilling a prompt", error))
                self._drop_cancelled()
        if made is not None:
            self._hand_out(dict(zip(keys, made, strict=True)), wanted)
        elif len(keys) > 1:  # Out here the memory of the failed forward is free again.
            for key, segment in zip(keys, segments, strict=True):
                self._grow([key], [segment], wanted)

    def _hand_out(
        self,
        made: Mapping[CacheKey, Prefill | CachedPrompt | CachedTail],
        wanted: Mapping[CacheKey, Sequence[Job]],
    ) -> None:
        """Give finished caches to the requests that waited: they may be dropped from the store at any time."""
        for key, result in made.items():
            if not isinstance(result, (CachedPrompt, CachedTail)):
                self._growths[key] = result
                continue
            del self._growths[key]
            for ground in [ground for job in wanted[key] for ground in job.grounds]:
                if (ground.reader, ground.tokens) != key[:2]:
                    continue
                if isinstance(result, CachedPrompt):
                    ground.prompt = result
                else:
                    ground.tail = result

    def _sort_waiting(self) -> dict[CacheKey, list[Job]]:
        """Move requests that can go on to their queues; what the others wait for."""
        wanted: dict[CacheKey, list[Job]] = {}
        still: list[Job] = []
        for job in self._waiting:
            try:
                missing = self._missing_of(job)
            except Exception as error:
                settle(job.future, failure("placing the images of a prompt", error))
                continue
            for key in missing:
                wanted.setdefault(key, []).append(job)
            if missing:
                still.append(job)
            elif isinstance(job, DrawJob):
                self._samples.append(job)
            elif isinstance(job, ScoreJob | NormaliseJob):
                self._scores.append(job)
            else:
                self._propose(job)
        self._waiting = still
        return wanted

    def _missing_of(self, job: Job) -> list[CacheKey]:
        """The caches a request still needs."""
        keys = (self._missing(ground) for ground in job.grounds)
        return list(dict.fromkeys(key for key in keys if key is not None))

    def _missing(self, ground: PrefixState) -> CacheKey | None:
        """The cache a request still needs, after seeing to it that it grows."""
        reader, tokens, prefix = ground.reader, ground.tokens, ground.prefix
        if ground.prompt is None:
            ground.prompt = self.store.prompt(tokens, reader)
        if ground.prompt is None:
            key: CacheKey = (reader, tokens, ())
            if key not in self._growths:
                self._growths[key] = start_prompt(tokens, reader, self.store, self.runner)
            return key
        if not prefix:
            return None
        if ground.tail is None:
            ground.tail = self.store.longest_tail(ground.prompt, prefix)
        if ground.tail and ground.tail.tokens == prefix and ground.tail.logits is not None:
            return None
        key = (reader, tokens, prefix)
        if key not in self._growths:
            self._growths[key] = start_tail(ground.prompt, prefix, ground.tail)
        return key

    def _propose(self, job: ProposeJob) -> None:
        """Answer at once; the tail that this one grew from has done its work."""
        [ground] = job.grounds
        settle(job.future, likeliest(ground.logits, job.request.count))
        self.store.drop_tail(ground.cache, ground.prefix[:-1])

    def _score(self) -> None:
        """Score up to a forward's worth of the requests that are ready and that one model reads."""
        chosen: list[PreparedScore] = []
        tokens = 0
        while self._scores and (not chosen or tokens < self._limits.score_tokens):
            job = self._scores[0]
            if isinstance(job, NormaliseJob):
                break
            next_one = PreparedScore(job)
            tokens += len(next_one.new)
            if chosen and (
                tokens > self._limits.score_tokens or not self._alike(chosen[0], next_one)
            ):
                break
            chosen.append(next_one)
            self._scores.pop(0)
        if chosen:
            self._score_together(chosen)
        elif self._scores:
            self._normalise(self._scores.pop(0))

    def _alike(self, first: PreparedScore, other: PreparedScore) -> bool:
        """Whether one model reads both."""
        return self.runner.of(first.ground.reader) is self.runner.of(other.ground.reader)

    def _normalise(self, job: ScoreJob | NormaliseJob) -> None:
        """A forward for one request: it has several views already."""
        assert isinstance(job, NormaliseJob)
        try:
            settle(job.future, normalise(job, self.runner))
        except Exception as error:
            settle(job.future, failure("scoring", error))

    def _score_together(self, chosen: Sequence[PreparedScore]) -> None:
        """One forward; if it fails, one for each request, so that a failure is only its own request's."""
        results = None
        try:
            results = score(chosen, self.runner.of(chosen[0].ground.reader), self.store)
        except Exception as error:
            if len(chosen) == 1:
                settle(chosen[0].job.future, failure("scoring", error))
        if results is not None:
            for r, logprobs in zip(chosen, results, strict=True):
                settle(r.job.future, logprobs)
        elif len(chosen) > 1:  # As in _grow.
            for prepared in chosen:
                self._score_together([prepared])

    def _admit(self) -> None:
        """Start rows, requests by turns; the first whose turn does not fit whole holds up the rest."""
        while self._samples:
            job, slots = self._samples[0], len(self._samples[0].request.slots)
            until = rows_by_turn_end(job.started, slots, alone=len(self._samples) == 1)
            try:
                self._rows.admit(job, until)
            except Exception as error:
                settle(job.future, failure("starting rows", error))
                self._drop_cancelled()
                continue
            if job.started < until:
                return
            self._samples.pop(0)
            if until < slots:
                self._samples.append(job)

    def _step(self) -> None:
        if not self._rows.live:
            return
        try:
            self._rows.step()
        except Exception as error:
            for job in self._rows.clear():
                settle(job.future, failure("drawing tokens", error))


def failure(doing: str, error: Exception) -> EngineError:
    """An :class:`EngineError` that says what the engine was at."""
    hint = (
        " Fewer rows at a time (max_rows) need less memory."
        if "memory" in str(error).lower()
        else ""
    )
    wrapped = EngineError(f"the transformers engine failed while {doing}: {error}.{hint}")
    wrapped.__cause__ = error
    return wrapped
