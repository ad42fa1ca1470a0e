"""The slow path that asks nothing of a model's insides: transformers' own cache, repeated for every row.

Used for architectures that do not agree with shared-prefix attention when they are opened (position biases, recurrent
state). One request after another; the prompt is still prefilled once, and candidates of one prompt are scored together.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preftilt.engines.transformers.guided_scoring import mixture_logprobs
from preftilt.engines.transformers.jobs import (
    DrawJob,
    Job,
    NormaliseJob,
    ProposeJob,
    ScoreJob,
    settle,
)
from preftilt.engines.transformers.probe import PROMPT, Probe, same
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.running_batch import RowLifecycle, SampledRow
from preftilt.engines.transformers.sampler import draw, likeliest, logprobs_of
from preftilt.engines.transformers.scheduler import TransformersLimits, failure
from preftilt.types import Reader, Tokens

KEPT_PROMPTS = 4
"""Prompts whose caches are kept; each is as large as the model makes it."""


@dataclass(frozen=True, slots=True)
class _RowsCache:
    """transformers' own cache of some rows, and the shift of the tokens that follow (``Sight.shifts``)."""

    own: Any
    shift: int = 0

    def copies(self, rows: int) -> _RowsCache:
        """A copy of a cache of one row for so many; the original stays as it is."""
        copied = copy.deepcopy(self.own)
        copied.batch_repeat_interleave(rows)
        return _RowsCache(copied, self.shift)

    def select(self, rows: Sequence[int], device: torch.device) -> None:
        """Let go of all other rows."""
        self.own.batch_select_indices(torch.tensor(rows, device=device))


class ExpandedPath:
    """Serves jobs with plain forwards and transformers' caches."""

    def __init__(self, runner: ModelRunner, ends: RowLifecycle, limits: TransformersLimits) -> None:
        self.runner = runner
        self._ends = ends
        self._limits = limits
        self._jobs: list[Job] = []
        self._prompts: OrderedDict[tuple[Reader | None, Tokens], tuple[_RowsCache, Tensor]] = (
            OrderedDict()
        )

    @property
    def idle(self) -> bool:
        """See :class:`~preftilt.engines.transformers.worker.ExecutionPath`."""
        return not self._jobs

    def add(self, jobs: Iterable[Job]) -> None:
        """See :class:`~preftilt.engines.transformers.worker.ExecutionPath`."""
        self._jobs.extend(jobs)

    def turn(self) -> None:
        """Serve the first request, or the first score requests if they share a beginning."""
        self._jobs = [job for job in self._jobs if not job.future.done()]
        if not self._jobs:
            return
        first = self._jobs[0]
        together = [job for job in self._jobs if _alike(first, job)][: self._limits.max_rows]
        self._jobs = [job for job in self._jobs if job not in together]
        try:
            if isinstance(first, DrawJob):
                self._sample(first)
            elif isinstance(first, ProposeJob):
                self._propose(first)
            elif isinstance(first, NormaliseJob):
                self._normalise(first)
            else:
                self._score([job for job in together if isinstance(job, ScoreJob)])
        except Exception as error:
            for job in together:
                settle(job.future, failure("running the expanded path", error))

    def abort(self, error: Exception) -> None:
        """See :class:`~preftilt.engines.transformers.worker.ExecutionPath`."""
        for job in self._jobs:
            settle(job.future, error)
        self._jobs = []

    def forget(self) -> None:
        """See :class:`~preftilt.engines.transformers.worker.ExecutionPath`."""
        self._prompts.clear()

    def agrees(self, probe: Probe) -> bool:
        """Whether this path reproduces the plain forward of the runner's model on the probe."""
        ids = tuple(probe.tokens.tolist())
        cache, first = self._prompt(ids[:PROMPT])
        scored = self._forward(cache.copies(2), probe.tokens[None, PROMPT:].repeat(2, 1))[1]
        decoded: list[Tensor] = []
        cache = cache.copies(2)
        for token in ids[PROMPT:]:
            decoded.append(
                self._forward(cache, torch.tensor([[token]] * 2, device=self.runner.device))[1, -1]
            )
            cache.select([0, 1], self.runner.device)
        self._prompts.clear()
        got = torch.cat([first[None], scored, torch.stack(decoded)])
        want = torch.cat([probe.reference[PROMPT - 1 :], probe.reference[PROMPT:]])
        return same(got, want, self.runner.model.dtype)

    def _prompt(self, tokens: Tokens, reader: Reader | None = None) -> tuple[_RowsCache, Tensor]:
        """A prompt's cache, at batch 1, and the logits [V] after it; one that is kept and begins it is taken over."""
        key = (reader, tokens)
        if key in self._prompts:
            self.runner.stats.prompt_hits += 1
            self._prompts.move_to_end(key)
            return self._prompts[key]
        known = (kept for by, kept in self._prompts if by == reader)
        begun = max(
            (
                tokens_before
                for tokens_before in known
                if tokens_before == tokens[: len(tokens_before)]
            ),
            key=len,
            default=(),
        )
        self.runner.stats.prompt_tokens += len(tokens) - len(begun)
        self.runner.stats.shared_tokens += len(begun)
        cache = self._prompts[reader, begun][0].copies(1).own if begun else None
        new = torch.tensor([tokens[len(begun) :]], device=self.runner.device)
        runner = self.runner.of(reader)
        shifts = None if runner.sight is None else runner.sight.shifts(tokens)
        here = None if shifts is None else shifts[:, len(begun) : -1]
        logits, cache = runner.by_rows(new, cache, reader, here)
        kept = _RowsCache(cache, 0 if shifts is None else int(shifts[0, -1]))
        self._prompts[key] = (kept, self.runner.clean(logits[0, -1:])[0])
        while len(self._prompts) > KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return self._prompts[key]

    def _forward(self, cache: _RowsCache, tokens: Tensor, reader: Reader | None = None) -> Tensor:
        """Logits [N, L, V] after new ``tokens`` [N, L]; ``cache`` [N rows] grows by them."""
        shifts = torch.full((3, 1), cache.shift)
        logits, _ = self.runner.of(reader).by_rows(tokens, cache.own, reader, shifts)
        return self.runner.clean(logits)

    def _sample(self, job: DrawJob) -> None:
        request = job.request
        known = [self._prompt(state.tokens + state.prefix, state.reader) for state in job.grounds]
        rows_at_once = max(1, self._limits.max_rows // len(known))
        for start in range(0, len(request.slots), rows_at_once):
            count = min(rows_at_once, len(request.slots) - start)
            rows = [self._ends.new_row(job, start + i) for i in range(count)]
            self.runner.stats.rows += count
            caches = [cache.copies(count) for cache, _ in known]
            self._draw_all(rows, caches, [logits.expand(count, -1) for _, logits in known])

    def _draw_all(
        self, rows: list[SampledRow], caches: list[_RowsCache], logits: list[Tensor]
    ) -> None:
        """Token by token until every row has ended; rows that end leave the caches, of which there is one a view."""
        while not rows[0].job.future.done():
            tickets = [
                row.ticket(tuple(range(i, len(rows) * len(caches), len(rows))))
                for i, row in enumerate(rows)
            ]
            tokens, logprobs = draw(torch.cat(logits), tickets)
            live = [
                i for i, row in enumerate(rows) if not self._ends.take(row, tokens[i], logprobs[i])
            ]
            if not live:
                return
            if len(live) < len(rows):
                for cache in caches:
                    cache.select(live, self.runner.device)
                rows = [rows[i] for i in live]
            last = torch.tensor([[row.tokens[-1]] for row in rows], device=self.runner.device)
            self.runner.stats.response_tokens += len(rows) * len(caches)
            readers = [ground.reader for ground in rows[0].job.grounds]
            logits = [
                self._forward(cache, last, reader)[:, -1]
                for cache, reader in zip(caches, readers, strict=True)
            ]

    def _propose(self, job: ProposeJob) -> None:
        request = job.request
        _, logits = self._prompt(request.prompt + request.prefix)
        settle(job.future, likeliest(logits, request.count))

    def _normalise(self, job: NormaliseJob) -> None:
        views = []
        completion = job.request.reads[0].completion
        for read in job.request.reads:
            cache, logits = self._prompt(read.prompt + read.prefix, read.reader)
            if len(completion) > 1:
                tokens = torch.tensor([completion[:-1]], device=self.runner.device)
                rest = self._forward(cache.copies(1), tokens, read.reader)[0]
                logits = torch.cat([logits[None], rest])
            views.append(logits.view(len(completion), -1))
        self.runner.stats.response_tokens += (len(completion) - 1) * len(views)
        self.runner.stats.scored += len(completion)
        settle(
            job.future, mixture_logprobs(torch.stack(views, 1), job.request.mixtures, completion)
        )

    def _score(self, jobs: Sequence[ScoreJob]) -> None:
        """Candidates after one and the same prompt and prefix, padded on the right."""
        request = jobs[0].request
        cache, first = self._prompt(request.prompt + request.prefix, request.reader)
        width = max(len(job.request.completion) for job in jobs)
        rows = [
            job.request.completion + (0,) * (width - len(job.request.completion)) for job in jobs
        ]
        tokens = torch.tensor(rows, device=self.runner.device)
        logits = first.expand(len(jobs), 1, -1)
        if width > 1:
            self.runner.stats.response_tokens += sum(
                len(job.request.completion) - 1 for job in jobs
            )
            copies = cache.copies(len(jobs))
            rest = self._forward(copies, tokens[:, :-1], request.reader)
            logits = torch.cat([logits, rest], dim=1)
        logprobs = (
            logprobs_of(logits.flatten(0, 1), tokens.flatten()).view(tokens.shape).cpu().numpy()
        )
        for job, row in zip(jobs, logprobs, strict=True):
            length = len(job.request.completion)
            self.runner.stats.scored += length
            settle(job.future, np.array(row[:length]))


def _alike(first: Job, other: Job) -> bool:
    """Whether two requests can be served together."""
    if not (isinstance(first, ScoreJob) and isinstance(other, ScoreJob)):
        return first is other
    a, b = first.request, other.request
    return (a.reader, a.prompt, a.prefix) == (b.reader, b.prompt, b.prefix)
