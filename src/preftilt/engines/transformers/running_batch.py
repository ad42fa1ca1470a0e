"""The rows that are being sampled: started when there is room, one token a turn, gone when they end.

A row is one response under way. It has a strand for every view that its tokens are drawn from: one if it is sampled,
several if it is guided. All strands of all rows share a forward and get the same new token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from preftilt.engines.steps import step_ended
from preftilt.engines.transformers.arms import Readers
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
from preftilt.engines.vocabulary import Vocabulary
from preftilt.streams import position_key, stream_key
from preftilt.types import Finish

PRIVATE_PROMPT = 512
"""A prompt of at most so many tokens that a single row continues is copied into that row's tail."""

WIDTH_KEPT = 512
"""Buffers wider than so many tokens are given back when no row is left."""


@dataclass(eq=False, slots=True)
class ViewSequence:
    """A row as one view reads it. ``forwarded`` counts the tokens in its tail; ``number`` is its place in the lane."""

    row: SampledRow
    lane: ModelBatch
    ground: PrefixState
    prompt: CachedPrompt | None
    forwarded: int
    number: int = 0


@dataclass(eq=False, slots=True)
class ModelBatch:
    """The strands that one model reads together: row ``r`` of its buffers is strand ``r``.

    ``begin`` is the number of its first strand among those of all lanes.
    """

    runner: ModelRunner
    strands: list[ViewSequence] = field(default_factory=list)
    buffers: TailBuffers = field(default_factory=lambda: TailBuffers(0))
    begin: int = 0

    def forward(self) -> Tensor:
        """Logits [S, V] after the last token of every strand."""
        places = [
            RowPosition(sequence.prompt, sequence.forwarded, sequence.ground.cache.shift)
            for sequence in self.strands
        ]
        plan = DecodePlan(self.buffers, places, self.runner.device, self._readers())
        last = plan.tokens_of([strand.row.tokens[-1] for strand in self.strands])
        return self.runner.logits(plan, last)

    def remove(self, number: int) -> None:
        """Close the gap that a strand leaves, with the then last one."""
        last = self.strands.pop()
        if number < len(self.strands):
            self.buffers.move(len(self.strands), number, last.forwarded)
            self.strands[number] = last
            last.number = number

    def _readers(self) -> Readers | None:
        if self.runner.arms is None or all(
            sequence.ground.reader is None for sequence in self.strands
        ):
            return None
        return tuple(strand.ground.reader for strand in self.strands)


@dataclass(eq=False, slots=True)
class SampledRow:
    """One continuation under way.

    ``longest`` counts the tokens of its longest prompt and the prefix; ``room`` is the longest that a tail may get.
    """

    job: DrawJob
    index: int
    key: int
    longest: int
    room: int = 0
    strands: list[ViewSequence] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    text: str = ""

    def ticket(self, strands: tuple[int, ...]) -> RowSampling:
        """How the next token is drawn: by its position in the whole response, from these rows of logits."""
        request = self.job.request
        position = len(request.prefix) + len(self.tokens)
        key = position_key(self.key, position)
        return RowSampling(request.sampling, key, strands, self.job.rule)


class RowLifecycle:
    """Begins rows, adds what was drawn to them and says when they have ended."""

    def __init__(self, runner: ModelRunner, vocabulary: Vocabulary, context: int) -> None:
        self._stats = runner.stats
        self._vocabulary = vocabulary
        self._context = context

    def new_row(self, job: DrawJob, index: int) -> SampledRow:
        """A row that continues the request's prefix; it has no strands yet."""
        request = job.request
        return SampledRow(
            job=job,
            index=index,
            key=stream_key(request.stream, request.slots[index]),
            longest=max(len(ground.tokens) for ground in job.grounds) + len(request.prefix),
        )

    def take(self, row: SampledRow, token: int, logprobs: list[float]) -> bool:
        """Add a drawn token; True if the row has ended (and its request knows)."""
        row.tokens.append(token)
        row.logprobs.append(logprobs)
        row.job.done += 1
        self._stats.drawn += 1
        why = self._end(row, token)
        row.job.tell(row.index, row.tokens, logprobs, why)
        if why is None:
            return False
        row.job.finish(row.index, row.tokens, row.logprobs, why)
        return True

    def _end(self, row: SampledRow, token: int) -> Finish | None:
        request = row.job.request
        if token in self._vocabulary.eos:
            return "eos"
        if request.step is not None:
            row.text = self._vocabulary.grown(row.text, row.tokens, request.step.delimiter)
            if step_ended(row.text, request.step.delimiter):
                return "stop"
        full = row.longest + len(row.tokens) >= self._context
        return "length" if full or len(row.tokens) >= request.max_tokens else None


class RunningBatch:
    """The live batch: ``capacity`` strands at most, as many as ``memory`` bytes of tails allow in the worst case."""

    def __init__(
        self,
        runner: ModelRunner,
        store: PrefixCache,
        ends: RowLifecycle,
        *,
        capacity: int,
        memory: int,
    ) -> None:
        self._lanes = [ModelBatch(runner)]
        self._runner = runner
        self._store = store
        self._ends = ends
        self._capacity = capacity
        self._memory = memory

    @property
    def live(self) -> bool:
        """Whether there are rows to go on with."""
        return any(lane.strands for lane in self._lanes)

    def admit(self, job: DrawJob, until: int) -> None:
        """Start as many of the request's slots as there is room for, ``until`` so many have been started."""
        count = min(self._free(job), until - job.started)
        if count <= 0:
            return
        private = [self._is_private(job, ground) for ground in job.grounds]
        rows = [self._ends.new_row(job, job.started + i) for i in range(count)]
        job.started += count
        self._runner.stats.rows += count
        rows = self._first_tokens(job, rows)
        lanes = [self._lane(ground) for ground in job.grounds]
        for lane in dict.fromkeys(lanes):
            lane.buffers.reserve(len(lane.strands) + len(rows) * lanes.count(lane), 1)
        # A view's strands stand together: rows that read one prompt, and logits to be mixed, need no sorting.
        for ground, carries in zip(job.grounds, private, strict=True):
            for row in rows:
                self._place(row, ground, carries)

    def step(self) -> None:
        """Draw the next token of every row."""
        lanes = [lane for lane in self._lanes if lane.strands]
        parts: list[Tensor] = []
        begin = 0
        for lane in lanes:
            lane.begin = begin
            parts.append(lane.forward())
            begin += len(lane.strands)
        self._runner.stats.response_tokens += begin
        rows = self._rows()
        tickets = [
            row.ticket(tuple(strand.lane.begin + strand.number for strand in row.strands))
            for row in rows
        ]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        drawn = zip(rows, *draw(logits, tickets), strict=True)
        for lane in lanes:
            for strand in lane.strands:
                strand.forwarded += 1
        self._remove(
            [row for row, token, logprobs in drawn if self._took_last(row, token, logprobs)]
        )

    def drop_cancelled(self) -> None:
        """Forget rows nobody waits for."""
        self._remove([row for row in self._rows() if row.job.future.done()])

    def clear(self) -> list[DrawJob]:
        """Forget every row; the requests they belonged to."""
        jobs = list({id(row.job): row.job for row in self._rows()}.values())
        self._lanes = [ModelBatch(self._runner)]
        return jobs

    def _rows(self) -> list[SampledRow]:
        """The live rows, in the order of their first strands."""
        strands = (strand for lane in self._lanes for strand in lane.strands)
        return [strand.row for strand in strands if strand is strand.row.strands[0]]

    def _lane(self, ground: PrefixState) -> ModelBatch:
        """The lane of the model that reads ``ground``, made on first sight of it."""
        runner = self._runner.of(ground.reader)
        for lane in self._lanes:
            if lane.runner is runner:
                return lane
        self._lanes.append(ModelBatch(runner))
        return self._lanes[-1]

    def _first_tokens(self, job: DrawJob, rows: list[SampledRow]) -> list[SampledRow]:
        """Draw the first token of new rows, which the caches of their grounds tell; those that have not ended."""
        views, count = len(job.grounds), len(rows)
        logits = torch.stack([ground.logits for ground in job.grounds])
        logits = logits[:, None].expand(-1, count, -1).reshape(views * count, -1)
        strands = [tuple(range(r, views * count, count)) for r in range(count)]
        tickets = [row.ticket(its) for row, its in zip(rows, strands, strict=True)]
        drawn = zip(rows, *draw(logits, tickets), strict=True)
        return [row for row, token, logprobs in drawn if not self._ends.take(row, token, logprobs)]

    def _took_last(self, row: SampledRow, token: int, logprobs: list[float]) -> bool:
        """Add a token; True if the row has ended. What its caller will continue is kept."""
        if not self._ends.take(row, token, logprobs):
            return False
        if row.job.request.keep:
            for strand in row.strands:
                self._keep(strand)
        return True

    def _free(self, job: DrawJob) -> int:
        """How many more rows like those of ``job`` fit; one if there are none, however large it is."""
        each = len(job.grounds)
        carried = [g.cache.length for g in job.grounds if self._is_private(job, g)]
        mine = len(job.request.prefix) + job.request.max_tokens + max(carried, default=0) + 1
        longest = max([mine, *(row.room for row in self._rows())])
        prompt = job.grounds[0].cache
        token = layers_bytes(prompt.layers) // prompt.length
        live = sum(len(lane.strands) for lane in self._lanes)
        fit = min(self._capacity, self._memory // max(1, token * longest)) - live
        return max(fit // each, 0 if self.live else 1)

    def _is_private(self, job: DrawJob, ground: PrefixState) -> bool:
        """Whether the rows of a request carry this prompt themselves."""
        alone = len(job.request.slots) == 1 and ground.cache.length <= PRIVATE_PROMPT
        shared = self._lane(ground).strands
        return alone and not any(strand.prompt is ground.prompt for strand in shared)

    def _place(self, row: SampledRow, ground: PrefixState, carries: bool) -> None:
        """Give a row's next strand its buffers, filled with what it continues."""
        lane, prompt = self._lane(ground), ground.cache
        number = len(lane.strands)
        start = prompt.length if carries else 0
        forwarded = start + len(ground.prefix)
        row.room = max(row.room, forwarded + row.job.request.max_tokens + 1)
        lane.buffers.reserve(number + 1, forwarded + 1)
        if carries:
            lane.buffers.write(number, 0, prompt.layers)
        if ground.tail is not None:
            lane.buffers.write(number, start, ground.tail.layers)
        strand = ViewSequence(row, lane, ground, None if carries else prompt, forwarded, number)
        row.strands.append(strand)
        lane.strands.append(strand)

    def _keep(self, strand: ViewSequence) -> None:
        """Store the tail of an ended row's strand."""
        if strand.prompt is None:
            return
        tokens = (*strand.ground.prefix, *strand.row.tokens[:-1])
        start = strand.forwarded - len(tokens)
        layers = strand.lane.buffers.read(strand.number, start, strand.forwarded)
        self._store.add_tail(strand.prompt, CachedTail(tokens, layers))

    def _remove(self, rows: list[SampledRow]) -> None:
        """Take the strands of ended rows out of their lanes, the last ones first."""
        gone = [strand for row in rows for strand in row.strands]
        for strand in sorted(gone, key=lambda sequence: sequence.number, reverse=True):
            strand.lane.remove(strand.number)
        for lane in self._lanes:
            if not lane.strands and lane.buffers.width > WIDTH_KEPT:
                lane.buffers = TailBuffers(0)
