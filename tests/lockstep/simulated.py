"""A stand-in for vLLM's scheduler and model runner that lets happen, at random, all that breaks lockstep.

It has few rows, reads few tokens a step, preempts, and ends requests from outside. Its batch changes as vLLM's does, it
caches prefixes of whole blocks, and its model is a function of the tokens that a request was given and has drawn.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from preftilt.engines.lockstep.groups import Member
from preftilt.engines.lockstep.processor import GroupProcessor
from preftilt.types import Tokens
from tests.lockstep.test_processor import Move
from tests.lockstep.test_rows import VOCABULARY

BLOCK = 4
"""Tokens in a block of the cache."""


def model(tokens: Tokens) -> torch.Tensor:
    """The next token's logits [V] after ``tokens``."""
    seed = 0
    for token in tokens:
        seed = (seed * 1_000_003 + token + 1) % (1 << 61)
    return 3 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))


@dataclass(eq=False, slots=True)
class Job:
    """A request in the stand-in; ``read`` are the tokens whose keys and values are there."""

    member: Member
    drawn: list[int] = field(default_factory=list)
    read: int = 0

    @property
    def tokens(self) -> Tokens:
        return self.member.tokens + tuple(self.drawn)


@dataclass(slots=True)
class Simulated:
    """``rows`` requests at a time, ``budget`` tokens a step. ``happened`` counts what broke lockstep."""

    seed: int
    rows: int
    budget: int
    preempts: float = 0.0
    aborts: float = 0.0
    processor: GroupProcessor = field(
        default_factory=lambda: GroupProcessor(None, torch.device("cpu"), False)
    )
    happened: Counter[str] = field(default_factory=Counter)
    waiting: deque[Job] = field(default_factory=deque)
    batch: list[Job] = field(default_factory=list)
    known: list[Job] = field(default_factory=list)
    cached: set[Tokens] = field(default_factory=set)

    def submit(self, members: Iterable[Member]) -> None:
        self.waiting.extend(Job(member) for member in members)

    def step(self) -> bool:
        """One step of the model; whether there was any work."""
        chance = Random(f"{self.seed} {self.happened['steps']}")
        self.happened["steps"] += 1
        preempted = self._disturb(chance)
        scheduled = self._schedule()
        self.waiting.extendleft(preempted)
        if not scheduled:
            return bool(self.waiting)
        self._follow([job for job, _ in scheduled])
        work = {id(job): count for job, count in scheduled}
        logits = torch.stack([model(job.tokens[: job.read + work[id(job)]]) for job in self.known])
        raw = torch.log_softmax(logits.double(), -1)
        chosen = self.processor.apply(logits).argmax(dim=1).tolist()
        for job, token, logprobs in zip(self.known, chosen, raw, strict=True):
            job.read += work[id(job)]
            self.cached.update(job.tokens[:end] for end in range(BLOCK, job.read + 1, BLOCK))
            if job.read < len(job.tokens):
                self.happened["half-read prompts"] += 1
                continue  # vLLM draws for it, too, and throws the token away.
            job.drawn.append(token)
            self._tell(job, [token], float(logprobs[token]))
        return True

    def _disturb(self, chance: Random) -> list[Job]:
        """End and preempt requests; who is preempted misses this step at least."""
        preempted: list[Job] = []
        for job in list(self.batch):
            if job.member.future.done():
                self.batch.remove(job)
            elif chance.random() < self.aborts:
                self.happened["aborts"] += 1
                self.batch.remove(job)
                self._answer(job, [], 0.0, finished=True)
            elif chance.random() < self.preempts:
                self.happened["preemptions"] += 1
                self.batch.remove(job)
                preempted.append(job)
        return preempted

    def _schedule(self) -> list[tuple[Job, int]]:
        """Who reads how many tokens in this step: the running first, then the waiting, first come, first served."""
        left, scheduled = self.budget, []
        for job in self.batch:
            count = min(left, len(job.tokens) - job.read)
            if count:
                scheduled.append((job, count))
                left -= count
        while self.waiting and left:
            if len(self.batch) >= self.rows:
                self.happened["full batches"] += 1
                break
            job = self.waiting.popleft()
            if job.member.future.done():
                continue
            self.batch.append(job)
            job.read = self._in_cache(job.tokens)
            count = min(left, len(job.tokens) - job.read)
            scheduled.append((job, count))
            left -= count
        return scheduled

    def _in_cache(self, tokens: Tokens) -> int:
        """How many of the tokens need not be read; the last one always is."""
        ends = range(BLOCK, len(tokens), BLOCK)
        return max((end for end in ends if tokens[:end] in self.cached), default=0)

    def _follow(self, jobs: Sequence[Job]) -> None:
        """Change the batch as vLLM does: gaps are filled by who is new, then by who stands last."""
        rows: list[Job | None] = [job if job in jobs else None for job in self.known]
        gaps = sorted((row for row, job in enumerate(rows) if job is None), reverse=True)
        left = set(gaps)
        added: list[tuple[int, Any, None, list[int]]] = []
        for job in jobs:
            if job in rows:
                continue
            row = gaps.pop() if gaps else len(rows)
            left.discard(row)
            rows[row : row + 1] = [job]
            params = SimpleNamespace(extra_args=job.member.member_params.as_args())
            added.append((row, params, None, job.drawn))
        moved: list[tuple[int, int, Move]] = []
        while gaps:
            if rows[-1] is None:
                rows.pop()
                gaps = [gap for gap in gaps if gap < len(rows)]
                if not gaps:
                    break
                continue
            target = gaps.pop()
            left.discard(target)
            moved.append((len(rows) - 1, target, Move.UNIDIRECTIONAL))
            rows[target] = rows.pop()
        removed = sorted(left, reverse=True)
        self.known = [job for job in rows if job is not None]
        if added or moved or removed:
            change = SimpleNamespace(removed=removed, added=added, moved=moved)
            self.processor.update_state(change)
        else:
            self.processor.update_state(None)

    def _tell(self, job: Job, tokens: list[int], logprob: float) -> None:
        full = len(job.drawn) == job.member.attempt.room
        finished = full or tokens[-1] in job.member.stops
        if finished:
            self.batch.remove(job)
        self._answer(job, tokens, logprob, finished)

    def _answer(self, job: Job, tokens: list[int], logprob: float, finished: bool) -> None:
        entries = [{token: SimpleNamespace(logprob=logprob)} for token in tokens]
        output: Any = SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tokens, logprobs=entries)], finished=finished
        )
        if not job.member.future.done():
            result = job.member.take_output(output)
            if result is not None:
                job.member.future.set_result(result)
