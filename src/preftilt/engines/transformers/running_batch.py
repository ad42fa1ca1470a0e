"""The running batch: rows are admitted when there is room, get one token a step, and are removed when they end.

A row is one response being drawn. It has a sequence for every view that its tokens are drawn from: one if it is
sampled, several if it is guided. All sequences of all rows share a forward, and those of a row get the same new token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from preftilt.engines.transformers.decode import DecodePlan, RowPosition, TailBuffers
from preftilt.engines.transformers.jobs import DrawJob, PrefixState
from preftilt.engines.transformers.prefix_cache import (
    CachedPrompt,
    CachedTail,
    PrefixCache,
    layers_bytes,
)
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.sampler import RowSampling, draw
from preftilt.engines.vocabulary import Vocabulary, step_ended
from preftilt.streams import position_key, stream_key
from preftilt.types import Finish

if TYPE_CHECKING:
    from preftilt.engines.transformers.arm_loading import Readers

PRIVATE_PROMPT = 512
"""A prompt of at most so many tokens that a single row continues is copied into that row's tail."""

WIDTH_KEPT = 512
"""Buffers wider than so many tokens are freed when no row is left."""


@dataclass(eq=False, slots=True)
class ViewSequence:
    """A row under one view. ``forwarded`` counts the tokens in its tail; ``number`` is its index in the batch."""

    row: SampledRow
    batch: ModelBatch
    state: PrefixState
    prompt: CachedPrompt | None
    forwarded: int
    number: int = 0


@dataclass(eq=False, slots=True)
class ModelBatch:
    """The sequences that one model forwards together: row ``r`` of the buffers is sequence ``r``.

    ``offset`` is the index of its first sequence among those of all batches. ``plan`` is that of the last forward,
    until the sequences change.
    """

    runner: ModelRunner
    sequences: list[ViewSequence] = field(default_factory=list)
    buffers: TailBuffers = field(default_factory=lambda: TailBuffers(0))
    offset: int = 0
    plan: DecodePlan | None = None

    def forward(self) -> Tensor:
        """Logits [S, V] after the last token of every sequence."""
        if self.plan is None:
            self.plan = self._new_plan()
        else:
            self.plan.advance()
        last = self.plan.tokens_of([sequence.row.tokens[-1] for sequence in self.sequences])
        return self.runner.logits(self.plan, last)

    def _new_plan(self) -> DecodePlan:
        places = [
            RowPosition(sequence.prompt, sequence.forwarded, sequence.state.cache.shift)
            for sequence in self.sequences
        ]
        return DecodePlan(self.buffers, places, self.runner.device, self._readers())

    def add(self, sequence: ViewSequence) -> None:
        """Append a sequence."""
        self.plan = None
        self.sequences.append(sequence)

    def remove(self, number: int) -> None:
        """Remove a sequence; the last one takes its index."""
        self.plan = None
        last = self.sequences.pop()
        if number < len(self.sequences):
            self.buffers.move(len(self.sequences), number, last.forwarded)
            self.sequences[number] = last
            last.number = number

    def _readers(self) -> Readers | None:
        if self.runner.arms is None or all(
            sequence.state.reader is None for sequence in self.sequences
        ):
            return None
        return tuple(sequence.state.reader for sequence in self.sequences)


@dataclass(eq=False, slots=True)
class SampledRow:
    """One response being drawn.

    ``longest`` counts the tokens of its longest prompt and the prefix; ``room`` is the longest that a tail may get.
    """

    job: DrawJob
    index: int
    key: int
    longest: int
    room: int = 0
    sequences: list[ViewSequence] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    text: str = ""

    def row_sampling(self, logit_rows: tuple[int, ...]) -> RowSampling:
        """The sampling of the next token, from these rows of logits; the key is of its position in the response."""
        request = self.job.request
        position = len(request.prefix) + len(self.tokens)
        key = position_key(self.key, position)
        return RowSampling(request.sampling, key, logit_rows, self.job.rule)


class RowLifecycle:
    """Creates rows, appends their tokens and decides when they end."""

    def __init__(self, runner: ModelRunner, vocabulary: Vocabulary, context: int) -> None:
        self._stats = runner.stats
        self._vocabulary = vocabulary
        self._context = context

    def new_row(self, job: DrawJob, index: int) -> SampledRow:
        """A row that continues the request's prefix; it has no sequences yet."""
        request = job.request
        return SampledRow(
            job=job,
            index=index,
            key=stream_key(request.stream, request.slots[index]),
            longest=max(len(state.tokens) for state in job.prefix_states) + len(request.prefix),
        )

    def add_token(self, row: SampledRow, token: int, logprobs: list[float]) -> bool:
        """Append a drawn token and report it to the job; True if the row has ended."""
        row.tokens.append(token)
        row.logprobs.append(logprobs)
        row.job.done += 1
        self._stats.drawn += 1
        finish = self._end(row, token)
        row.job.emit(row.index, row.tokens, logprobs, finish)
        if finish is None:
            return False
        row.job.finish(row.index, row.tokens, row.logprobs, finish)
        return True

    def _end(self, row: SampledRow, token: int) -> Finish | None:
        request = row.job.request
        if token in self._vocabulary.eos:
            return "eos"
        if request.step is not None:
            row.text = self._vocabulary.extended_step_text(
                row.text, row.tokens, request.step.delimiter
            )
            if step_ended(row.text, request.step.delimiter):
                return "step"
        full = row.longest + len(row.tokens) >= self._context
        return "length" if full or len(row.tokens) >= request.max_tokens else None


class RunningBatch:
    """The batch that is decoded: at most ``capacity`` sequences, and ``memory`` bytes of tails in the worst case."""

    def __init__(
        self,
        runner: ModelRunner,
        cache: PrefixCache,
        lifecycle: RowLifecycle,
        *,
        capacity: int,
        memory: int,
    ) -> None:
        self._batches = [ModelBatch(runner)]
        self._runner = runner
        self._cache = cache
        self._lifecycle = lifecycle
        self._capacity = capacity
        self._memory = memory

    @property
    def active(self) -> bool:
        """Whether any row is running."""
        return any(batch.sequences for batch in self._batches)

    def admit(self, job: DrawJob, until: int) -> None:
        """Start as many of the request's slots as there is room for, ``until`` so many have been started."""
        count = min(self._free_rows(job), until - job.started)
        if count <= 0:
            return
        private = [self._is_private(job, state) for state in job.prefix_states]
        rows = [self._lifecycle.new_row(job, job.started + i) for i in range(count)]
        job.started += count
        self._runner.stats.rows += count
        rows = self._draw_first_tokens(job, rows)
        batches = [self._batch(state) for state in job.prefix_states]
        for batch in dict.fromkeys(batches):
            batch.buffers.reserve(len(batch.sequences) + len(rows) * batches.count(batch), 1)
        # Sequences of a view are adjacent, so that rows of one prompt, and logits to be mixed, need no sorting.
        for state, owns_prompt in zip(job.prefix_states, private, strict=True):
            for row in rows:
                self._add_sequence(row, state, owns_prompt)

    def step(self) -> None:
        """Draw the next token of every row."""
        batches = [batch for batch in self._batches if batch.sequences]
        parts: list[Tensor] = []
        offset = 0
        for batch in batches:
            batch.offset = offset
            parts.append(batch.forward())
            offset += len(batch.sequences)
        self._runner.stats.response_tokens += offset
        rows = self._rows()
        row_samplings = [
            row.row_sampling(
                tuple(sequence.batch.offset + sequence.number for sequence in row.sequences)
            )
            for row in rows
        ]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        drawn = zip(rows, *draw(logits, row_samplings), strict=True)
        for batch in batches:
            for sequence in batch.sequences:
                sequence.forwarded += 1
        self._remove(
            [row for row, token, logprobs in drawn if self._add_token(row, token, logprobs)]
        )

    def drop_cancelled(self) -> None:
        """Remove rows whose requests were cancelled."""
        self._remove([row for row in self._rows() if row.job.future.done()])

    def clear(self) -> list[DrawJob]:
        """Remove all rows; returns their jobs."""
        jobs = list({id(row.job): row.job for row in self._rows()}.values())
        self._batches = [ModelBatch(self._runner)]
        return jobs

    def _rows(self) -> list[SampledRow]:
        """The running rows, in the order of their first sequences."""
        sequences = (sequence for batch in self._batches for sequence in batch.sequences)
        return [sequence.row for sequence in sequences if sequence is sequence.row.sequences[0]]

    def _batch(self, state: PrefixState) -> ModelBatch:
        """The batch of the model that computes ``state``, created at first use."""
        runner = self._runner.runner_of(state.reader)
        for batch in self._batches:
            if batch.runner is runner:
                return batch
        self._batches.append(ModelBatch(runner))
        return self._batches[-1]

    def _draw_first_tokens(self, job: DrawJob, rows: list[SampledRow]) -> list[SampledRow]:
        """Draw the first token of new rows from their prefixes' logits; returns the rows that have not ended."""
        views, count = len(job.prefix_states), len(rows)
        logits = torch.stack([state.logits for state in job.prefix_states])
        logits = logits[:, None].expand(-1, count, -1).reshape(views * count, -1)
        rows_of_logits = [tuple(range(r, views * count, count)) for r in range(count)]
        row_samplings = [
            row.row_sampling(logit_rows)
            for row, logit_rows in zip(rows, rows_of_logits, strict=True)
        ]
        drawn = zip(rows, *draw(logits, row_samplings), strict=True)
        return [
            row
            for row, token, logprobs in drawn
            if not self._lifecycle.add_token(row, token, logprobs)
        ]

    def _add_token(self, row: SampledRow, token: int, logprobs: list[float]) -> bool:
        """Append a token; True if the row has ended. With ``keep`` its tails go into the prefix cache."""
        if not self._lifecycle.add_token(row, token, logprobs):
            return False
        if row.job.request.keep:
            for sequence in row.sequences:
                self._store_tail(sequence)
        return True

    def _free_rows(self, job: DrawJob) -> int:
        """How many more rows like those of ``job`` fit; at least one if no row is running."""
        views = len(job.prefix_states)
        carried = [g.cache.length for g in job.prefix_states if self._is_private(job, g)]
        tokens_needed = (
            len(job.request.prefix) + job.request.max_tokens + max(carried, default=0) + 1
        )
        longest = max([tokens_needed, *(row.room for row in self._rows())])
        prompt = job.prefix_states[0].cache
        token = layers_bytes(prompt.layers) // prompt.length
        active = sum(len(batch.sequences) for batch in self._batches)
        room = min(self._capacity, self._memory // max(1, token * longest)) - active
        return max(room // views, 0 if self.active else 1)

    def _is_private(self, job: DrawJob, state: PrefixState) -> bool:
        """Whether the request's only row gets a copy of this prompt."""
        alone = len(job.request.slots) == 1 and state.cache.length <= PRIVATE_PROMPT
        shared = self._batch(state).sequences
        return alone and not any(sequence.prompt is state.prompt for sequence in shared)

    def _add_sequence(self, row: SampledRow, state: PrefixState, owns_prompt: bool) -> None:
        """Add a row's sequence under the next view, its buffers filled with what it continues."""
        batch, prompt = self._batch(state), state.cache
        number = len(batch.sequences)
        start = prompt.length if owns_prompt else 0
        forwarded = start + len(state.prefix)
        row.room = max(row.room, forwarded + row.job.request.max_tokens + 1)
        batch.buffers.reserve(number + 1, forwarded + 1)
        if owns_prompt:
            batch.buffers.write(number, 0, prompt.layers)
        if state.tail is not None:
            batch.buffers.write(number, start, state.tail.layers)
        sequence = ViewSequence(
            row, batch, state, None if owns_prompt else prompt, forwarded, number
        )
        row.sequences.append(sequence)
        batch.add(sequence)

    def _store_tail(self, sequence: ViewSequence) -> None:
        """Put the tail of an ended row's sequence into the prefix cache."""
        if sequence.prompt is None:
            return
        tokens = (*sequence.state.prefix, *sequence.row.tokens[:-1])
        start = sequence.forwarded - len(tokens)
        layers = sequence.batch.buffers.read(sequence.number, start, sequence.forwarded)
        self._cache.add_tail(sequence.prompt, CachedTail(tokens, layers))

    def _remove(self, rows: list[SampledRow]) -> None:
        """Remove the sequences of ended rows from their batches, the last ones first."""
        ended = [sequence for row in rows for sequence in row.sequences]
        for sequence in sorted(ended, key=lambda sequence: sequence.number, reverse=True):
            sequence.batch.remove(sequence.number)
        for batch in self._batches:
            if not batch.sequences and batch.buffers.width > WIDTH_KEPT:
                batch.buffers = TailBuffers(0)
