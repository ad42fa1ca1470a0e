"""Continuous batching: every step is one call of llama.cpp.

Rows that are drawn go first, one token each, the views of a guided response side by side; then prefills, then
completions to score, as far as there is room. Each request is done when its own rows are. Everything here runs on the
engine's one thread (``worker.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from preftilt.engines.base import GuideRequest
from preftilt.engines.llamacpp.batch_tasks import (
    BatchTask,
    DrawTask,
    LlamaDrawJob,
    LlamaJob,
    LlamaScoreJob,
    PrefillTask,
    ScoreTask,
    StopCriteria,
    TokenChunk,
)
from preftilt.engines.llamacpp.bindings import LlamaContext
from preftilt.engines.llamacpp.sampler import logprobs_of
from preftilt.engines.llamacpp.sequences import LlamaSequence, SequenceCache, SequencePool
from preftilt.engines.worker import rows_by_turn_end, settle
from preftilt.errors import BadInput, EngineError
from preftilt.streams import stream_key
from preftilt.types import Tokens

J = TypeVar("J", LlamaDrawJob, LlamaScoreJob)


@dataclass(slots=True)
class LlamaCppStats:
    """Counts since the engine was opened.

    calls: of llama.cpp. forwarded: tokens in them. shared: tokens of prompts and prefixes that were cached. drawn,
    scored: tokens of responses.
    """

    calls: int = 0
    forwarded: int = 0
    shared: int = 0
    drawn: int = 0
    scored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppLimits:
    """max_rows: rows drawn together, one a view. context: tokens of prompt and response. cells: of all sequences.

    cached_cells: of the prefix cache.
    """

    max_rows: int
    context: int
    cells: int
    cached_cells: int

    def check(self, request: GuideRequest) -> None:
        """Refuse a guided response for which there would never be room.

        Raises :class:`~preftilt.errors.BadInput`.
        """
        views = len(request.views)
        if max(views, 2) > self.max_rows:
            raise BadInput(
                f"the answer is guided by {views} views at once, and no more than {self.max_rows} rows are drawn"
                f" together: open the model with --max-rows {max(views, 2)} or more, or state fewer preferences"
            )
        contexts = [len(view.prompt) + len(request.prefix) for view in request.views]
        tokens = min(request.max_tokens, self.context - max(contexts))
        needed = sum(contexts) + views * tokens
        if needed > self.cells:
            raise BadInput(
                f"the {views} views of a guided answer may need {needed} tokens of key/value cache, and there are"
                f" {self.cells}: shorten the prompt or max_tokens, state fewer preferences, or open the model with"
                " --dtype float16, which has room for more where memory is short, or with more --max-rows"
            )


class Admission(Enum):
    """The outcome of trying to admit a job."""

    ADMITTED = 1
    WAITING = 2
    NO_ROOM = 3
    TURN_OVER = 4


@dataclass(slots=True)
class LlamaCppScheduler:
    """Decides what each batch computes. ``holes`` are ids without a token: they get no probability."""

    context: LlamaContext
    stop: StopCriteria
    limits: LlamaCppLimits
    holes: Int[np.ndarray, "H"]
    stats: LlamaCppStats = field(default_factory=LlamaCppStats)
    pool: SequencePool = field(init=False)
    cache: SequenceCache = field(init=False)
    draw_tasks: list[DrawTask] = field(default_factory=list)
    score_tasks: list[ScoreTask] = field(default_factory=list)
    prefills: dict[Tokens, PrefillTask] = field(default_factory=dict)
    draw_queue: list[LlamaDrawJob] = field(default_factory=list)
    score_queue: list[LlamaScoreJob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = SequencePool(self.context)
        self.cache = SequenceCache(self.pool, self.limits.cached_cells)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until a job is added."""
        return not (self.draw_queue or self.score_queue or self.draw_tasks or self.score_tasks)

    def add(self, jobs: Iterable[LlamaJob]) -> None:
        """Queue new jobs."""
        for job in jobs:
            if isinstance(job, LlamaDrawJob):
                self.draw_queue.append(job)
            else:
                self.score_queue.append(job)

    def step(self) -> None:
        """Admit jobs, run one batch, and collect what is done."""
        self._drop_cancelled()
        # The views of the request that is next stay: else one could push out the other for ever.
        self.cache.pinned = frozenset(self.draw_queue[0].contexts if self.draw_queue else ())
        budget = self.context.settings.batch - sum(
            task.remaining_cells for task in self.score_tasks
        )
        self.score_queue = _admit_in_order(
            self.score_queue, self._admit_score, lambda job: len(job.request.completion), budget
        )
        self._admit_draws()
        forwarded, collected = self._forward(), self._collect()
        if not (forwarded or collected or self.idle):
            raise EngineError("a request waits for room that nobody will give back")

    def forget(self) -> None:
        """Empty the sequence cache; running tasks are not affected."""
        self.cache.clear()

    def abort(self, error: Exception) -> None:
        """Fail every request, and start over with an empty context."""
        for job in (
            *self.draw_queue,
            *self.score_queue,
            *(task.job for task in (*self.draw_tasks, *self.score_tasks)),
        ):
            settle(job.future, error)
        self.draw_queue, self.score_queue, self.draw_tasks, self.score_tasks = [], [], [], []
        self.prefills.clear()
        self.cache.reset()
        self.pool.reset()

    def _drop_cancelled(self) -> None:
        self.draw_queue = [job for job in self.draw_queue if not job.future.done()]
        self.score_queue = [job for job in self.score_queue if not job.future.done()]
        for task in self.draw_tasks:
            if task.job.future.done():
                for member in task.members:
                    self.pool.drop(member.sequence)
        for task in self.score_tasks:
            if task.job.future.done():
                self.pool.drop(task.sequence)
        self.draw_tasks = [task for task in self.draw_tasks if not task.job.future.done()]
        self.score_tasks = [task for task in self.score_tasks if not task.job.future.done()]
        wanted = {context for job in self.draw_queue for context in job.contexts}
        wanted |= {job.context for job in self.score_queue}
        for tokens in self.prefills.keys() - wanted:
            self.pool.drop(self.prefills.pop(tokens).sequence)

    def _tasks(self) -> list[BatchTask]:
        members = [member for task in self.draw_tasks for member in task.members]
        return [*members, *self.prefills.values(), *self.score_tasks]

    def _prefix_sequence(self, tokens: Tokens) -> LlamaSequence | Admission:
        """The sequence of a prompt and prefix, with the logits after it; or why there is none yet."""
        exact = self.cache.find_exact(tokens)
        if exact is not None or tokens in self.prefills:
            return exact or Admission.WAITING
        nearest, shared = self.cache.longest_prefix(tokens)
        if nearest and not self._make_room(len(tokens) - shared, 1, [nearest]):
            # The rest of that sequence, after the shared prefix, may take the room that is needed.
            nearest, shared = None, 0
        if not nearest and not self._make_room(len(tokens), 1, ()):
            return Admission.NO_ROOM
        self.prefills[tokens] = PrefillTask(self.pool.fork(nearest, shared), tokens)
        self.stats.shared += shared
        return Admission.WAITING

    def _make_room(self, cells: int, seq_ids: int, protected: Collection[LlamaSequence]) -> bool:
        """Free so many cells beyond those that running tasks may still need."""
        reserved = sum(task.remaining_cells for task in self._tasks())
        return self.cache.make_room(reserved + cells, seq_ids, protected)

    def _admit_score(self, job: LlamaScoreJob) -> Admission:
        prefix, completion = self._prefix_sequence(job.context), job.request.completion
        if isinstance(prefix, Admission):
            return prefix
        if not self._make_room(len(completion) - 1, 1, [prefix]):
            return Admission.NO_ROOM
        assert prefix.logits is not None
        first = logprobs_of(prefix.logits[None], np.array(completion[:1]))
        sequence = self.pool.fork(prefix, prefix.length)
        self.stats.shared += prefix.length
        self.score_tasks.append(ScoreTask(sequence, job, [first]))
        return Admission.ADMITTED

    @property
    def _rows(self) -> int:
        return sum(len(task.members) for task in self.draw_tasks)

    def _admit_draws(self) -> None:
        """Admit responses, requests taking turns, until there is no room or no request is ready."""
        running = -1
        while running < self._rows < self.limits.max_rows:
            running = self._rows
            self.draw_queue = _admit_in_order(
                self.draw_queue,
                self._admit_draw,
                lambda job: (self._slots_by_turn_end(job) - job.started) * len(job.contexts),
                self.limits.max_rows - running,
            )

    def _slots_by_turn_end(self, job: LlamaDrawJob) -> int:
        return rows_by_turn_end(
            job.started, len(job.request.slots), alone=len(self.draw_queue) == 1
        )

    def _admit_draw(self, job: LlamaDrawJob) -> Admission:
        """Admit as many responses of a request's turn as there is room for."""
        prefixes = self._prefix_sequences(job.contexts)
        if isinstance(prefixes, Admission):
            return prefixes
        request, views = job.request, len(prefixes)
        longest = max(prefix.length for prefix in prefixes)
        limit = min(request.max_tokens, self.limits.context - longest)
        until = self._slots_by_turn_end(job)
        while job.started < until and self._rows + views <= self.limits.max_rows:
            if not self._make_room(views * (limit - 1), views, prefixes):
                return Admission.NO_ROOM
            sequences = [self.pool.fork(prefix, prefix.length) for prefix in prefixes]
            key = stream_key(request.stream, request.slots[job.started])
            task = DrawTask(job, job.started, key, limit, self.stop)
            job.started += 1
            self.stats.shared += sum(prefix.length for prefix in prefixes)
            task.begin(sequences, np.stack([_logits_after(prefix) for prefix in prefixes]))
            self.draw_tasks.append(task)
        if not job.waiting:
            return Admission.ADMITTED
        return Admission.TURN_OVER if job.started == until else Admission.NO_ROOM

    def _prefix_sequences(self, contexts: Sequence[Tokens]) -> list[LlamaSequence] | Admission:
        """As :meth:`_prefix_sequence`, of every view; those that are missing are prefilled together."""
        prefixes = [self._prefix_sequence(tokens) for tokens in contexts]
        ready = [prefix for prefix in prefixes if isinstance(prefix, LlamaSequence)]
        if len(ready) == len(prefixes):
            return ready
        return Admission.NO_ROOM if Admission.NO_ROOM in prefixes else Admission.WAITING

    def _forward(self) -> bool:
        """One call of llama.cpp with the next tokens of as many tasks as fit into the batch; False if none."""
        tokens, outputs = self.context.settings.batch, self.context.settings.outputs
        chunks: list[tuple[BatchTask, TokenChunk]] = []
        for task in self._tasks():
            chunk = TokenChunk((), 0) if task.done else task.next_chunk(tokens, outputs)
            if chunk.tokens:
                chunks.append((task, chunk))
                tokens -= len(chunk.tokens)
                outputs -= chunk.outputs
        if not chunks:
            return False
        logits = self.context.forward(*_layout(chunks))
        logits[:, self.holes] = -np.inf
        self.stats.calls += 1
        start = 0
        for task, chunk in chunks:
            self.stats.forwarded += len(chunk.tokens)
            self.pool.extend(task.sequence, chunk.tokens)
            task.take_logits(logits[start : start + chunk.outputs])
            start += chunk.outputs
        return True

    def _collect(self) -> bool:
        """Return results of finished tasks, and cache or free their sequences; False if none was finished."""
        for tokens, prefill in [*self.prefills.items()]:
            if prefill.done:
                self.cache.add(self.prefills.pop(tokens).sequence)
        score_tasks = [task for task in self.score_tasks if task.done]
        draw_tasks = [task for task in self.draw_tasks if task.done]
        for task in score_tasks:
            self.score_tasks.remove(task)
            self.stats.scored += len(task.job.request.completion)
            self._release(task.sequence, keep=task.job.request.keep)
            settle(task.job.future, np.concatenate(task.logprobs))
        for task in draw_tasks:
            self.draw_tasks.remove(task)
            self.stats.drawn += len(task.drawn)
            for member in task.members:
                self._release(member.sequence, keep=task.job.request.keep)
            task.job.finish(task.index, task.response)
        return bool(score_tasks or draw_tasks)

    def _release(self, sequence: LlamaSequence, *, keep: bool) -> None:
        if keep:
            self.cache.add(sequence)
        else:
            self.pool.drop(sequence)


def _admit_in_order(
    queue: Sequence[J], admit: Callable[[J], Admission], cost: Callable[[J], int], budget: int
) -> list[J]:
    """Admit jobs in the order of the queue while there is room and budget; returns those that still wait.

    Jobs whose turn is over go to the end. The budget keeps prompts from being prefilled long before there is room for
    their completions.
    """
    waiting: list[J] = []
    turn_over: list[J] = []
    for index, job in enumerate(queue):
        if budget <= 0:
            return [*waiting, *queue[index:], *turn_over]
        budget -= cost(job)
        state = admit(job)
        if state is Admission.NO_ROOM:
            return [*waiting, *queue[index:], *turn_over]
        if state is Admission.WAITING:
            waiting.append(job)
        elif state is Admission.TURN_OVER:
            turn_over.append(job)
    return [*waiting, *turn_over]


def _logits_after(prefix: LlamaSequence) -> Float[np.ndarray, "V"]:
    assert prefix.logits is not None
    return prefix.logits


def _layout(
    chunks: Sequence[tuple[BatchTask, TokenChunk]],
) -> tuple[list[int], list[int], list[int], list[bool]]:
    """Tokens, their positions, their sequences, and whether logits are wanted after them."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    wanted: list[bool] = []
    for task, chunk in chunks:
        count, length = len(chunk.tokens), task.sequence.length
        tokens += chunk.tokens
        positions += range(length, length + count)
        sequences += [task.sequence.seq_id] * count
        wanted += [index >= count - chunk.outputs for index in range(count)]
    return tokens, positions, sequences, wanted
