"""The rows that are being sampled: started when there is room, one token a turn, gone when they end."""

from __future__ import annotations

from dataclasses import dataclass, field

from preftilt.engines.steps import step_ended
from preftilt.engines.transformers.caches import Prompt, Store, Tail, size
from preftilt.engines.transformers.decode import Buffers, DecodePlan, RowPlace
from preftilt.engines.transformers.jobs import SampleJob, next_logits
from preftilt.engines.transformers.runner import Runner
from preftilt.engines.transformers.sampler import Ticket, draw
from preftilt.engines.vocabulary import Vocabulary
from preftilt.streams import position_key, stream_key
from preftilt.types import Finish

PRIVATE_PROMPT = 512
"""A prompt of at most so many tokens that a single row continues is copied into that row's tail."""

WIDTH_KEPT = 512
"""Buffers wider than so many tokens are given back when no row is left."""


@dataclass(eq=False, slots=True)
class Row:
    """One continuation under way. ``forwarded`` counts the tokens in its tail; ``room`` is the longest it may get."""

    job: SampleJob
    index: int
    key: int
    room: int
    prompt: Prompt | None
    forwarded: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""

    @property
    def ticket(self) -> Ticket:
        """How the next token is drawn: by its position in the whole response."""
        request = self.job.request
        position = len(request.prefix) + len(self.tokens)
        return Ticket(request.sampling, position_key(self.key, position))


class RowEnd:
    """Begins rows, adds what was drawn to them and says when they have ended."""

    def __init__(self, runner: Runner, vocabulary: Vocabulary, context: int) -> None:
        self._stats = runner.stats
        self._vocabulary = vocabulary
        self._context = context

    def new_row(
        self, job: SampleJob, index: int, *, carried: int = 0, prompt: Prompt | None = None
    ) -> Row:
        """A row that continues the request's prefix; ``carried`` prompt tokens stand in its own tail."""
        request = job.request
        forwarded = len(request.prefix) + carried
        return Row(
            job=job,
            index=index,
            key=stream_key(request.stream, request.slots[index]),
            room=forwarded + request.max_tokens + 1,
            prompt=prompt,
            forwarded=forwarded,
        )

    def take(self, row: Row, token: int, logprob: float) -> bool:
        """Add a drawn token; True if the row has ended (and its request knows)."""
        row.tokens.append(token)
        row.logprobs.append(logprob)
        row.job.done += 1
        self._stats.drawn += 1
        why = self._end(row, token)
        if why is None:
            return False
        row.job.finish(row.index, row.tokens, row.logprobs, why)
        return True

    def _end(self, row: Row, token: int) -> Finish | None:
        request = row.job.request
        if token in self._vocabulary.eos:
            return "eos"
        if request.step is not None:
            row.text = self._vocabulary.grown(row.text, row.tokens, request.step.delimiter)
            if step_ended(row.text, request.step.delimiter):
                return "stop"
        full = len(request.prompt) + len(request.prefix) + len(row.tokens) >= self._context
        return "length" if full or len(row.tokens) >= request.max_tokens else None


class Rows:
    """The live batch. ``capacity`` rows at most, and as many as ``memory`` bytes of tails allow in the worst case."""

    def __init__(
        self, runner: Runner, store: Store, ends: RowEnd, *, capacity: int, memory: int
    ) -> None:
        self.live: list[Row] = []
        self._runner = runner
        self._store = store
        self._ends = ends
        self._capacity = capacity
        self._memory = memory
        self._buffers = Buffers(0)

    def admit(self, job: SampleJob) -> None:
        """Start as many of the request's slots as there is room for."""
        assert job.prompt is not None
        count = min(self._free(job), len(job.request.slots) - job.started)
        if count <= 0:
            return
        private = self._is_private(job)
        carried = job.prompt.length if private else 0
        shared = None if private else job.prompt
        rows = [
            self._ends.new_row(job, job.started + i, carried=carried, prompt=shared)
            for i in range(count)
        ]
        job.started += count
        self._runner.stats.rows += count
        logits = next_logits(job).expand(count, -1)
        tokens, logprobs = draw(logits, [row.ticket for row in rows])
        drawn = zip(rows, tokens, logprobs, strict=True)
        rows = [row for row, token, logprob in drawn if not self._ends.take(row, token, logprob)]
        self._buffers.reserve(len(self.live) + len(rows), 1)
        for row in rows:
            self._place(row, job.prompt if private else None, job.tail)

    def step(self) -> None:
        """Draw the next token of every row."""
        places = [RowPlace(row.prompt, row.forwarded) for row in self.live]
        plan = DecodePlan(self._buffers, places, self._runner.device)
        logits = self._runner.logits(plan, plan.tokens_of([row.tokens[-1] for row in self.live]))
        self._runner.stats.response_tokens += len(self.live)
        tokens, logprobs = draw(logits, [row.ticket for row in self.live])
        ended: list[int] = []
        for number, row in enumerate(self.live):
            row.forwarded += 1
            if self._ends.take(row, tokens[number], logprobs[number]):
                self._keep(row, number)
                ended.append(number)
        self._remove(ended)

    def drop_cancelled(self) -> None:
        """Forget rows nobody waits for."""
        self._remove([number for number, row in enumerate(self.live) if row.job.future.done()])

    def clear(self) -> list[SampleJob]:
        """Forget every row; the requests they belonged to."""
        jobs = list({id(row.job): row.job for row in self.live}.values())
        self.live = []
        self._buffers = Buffers(0)
        return jobs

    def _free(self, job: SampleJob) -> int:
        """How many more rows like those of ``job`` fit."""
        assert job.prompt is not None
        free = self._capacity - len(self.live)
        request = job.request
        longest = len(request.prefix) + request.max_tokens
        if self._is_private(job):
            longest += job.prompt.length
        longest = max([longest, *(row.room for row in self.live)])
        token = size(job.prompt.layers) // job.prompt.length
        fit = self._memory // max(1, token * longest) - len(self.live)
        return min(free, max(fit, 0 if self.live else 1))

    def _is_private(self, job: SampleJob) -> bool:
        """Whether the rows of a request carry the prompt themselves."""
        prompt = job.prompt
        assert prompt is not None
        alone = len(job.request.slots) == 1 and prompt.length <= PRIVATE_PROMPT
        return alone and not any(row.prompt is prompt for row in self.live)

    def _place(self, row: Row, carried: Prompt | None, tail: Tail | None) -> None:
        """Give a row its buffers, filled with what it continues."""
        number = len(self.live)
        self._buffers.reserve(number + 1, row.forwarded + 1)
        start = 0
        if carried is not None:
            self._buffers.write(number, 0, carried.layers)
            start = carried.length
        if tail is not None:
            self._buffers.write(number, start, tail.layers)
        self.live.append(row)

    def _keep(self, row: Row, number: int) -> None:
        """Store the tail of an ended row whose caller will continue it."""
        request, prompt = row.job.request, row.job.prompt
        if not request.keep or prompt is None:
            return
        tokens = (*request.prefix, *row.tokens[:-1])
        start = row.forwarded - len(tokens)
        self._store.add_tail(prompt, Tail(tokens, self._buffers.read(number, start, row.forwarded)))

    def _remove(self, numbers: list[int]) -> None:
        """Close the gaps that ended rows leave, each with the then last row."""
        for number in reversed(numbers):
            last = self.live.pop()
            if number < len(self.live):
                self._buffers.move(len(self.live), number, last.forwarded)
                self.live[number] = last
        if not self.live and self._buffers.width > WIDTH_KEPT:
            self._buffers = Buffers(0)
