"""The slow path for any architecture: the model's own forward with transformers' cache, repeated for every row.

Used for models that fail the check of shared-prefix attention at opening (position biases, recurrent state). Requests
are served one after another; a prompt is still prefilled once, and completions of one prompt are scored together.
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

from preftilt.engines.transformers.jobs import DrawJob, Job, NormaliseJob, ProposeJob, ScoreJob
from preftilt.engines.transformers.probe import PROMPT, Probe, same
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.running_batch import RowLifecycle, SampledRow
from preftilt.engines.transformers.sampler import draw, likeliest, logprobs_of
from preftilt.engines.transformers.scheduler import TransformersLimits, failure
from preftilt.engines.transformers.scoring import mixture_logprobs
from preftilt.engines.worker import settle
from preftilt.types import Reader, Tokens

KEPT_PROMPTS = 4
"""Prompts whose caches are kept; the size of each depends on the model."""


@dataclass(frozen=True, slots=True)
class _RowCaches:
    """transformers' cache of some rows, and the shift of the tokens that follow (``ImageEmbedder.shifts``)."""

    cache: Any
    shift: int = 0

    def repeated(self, rows: int) -> _RowCaches:
        """A copy of a one-row cache, repeated for ``rows`` rows; the original is unchanged."""
        repeated_cache = copy.deepcopy(self.cache)
        repeated_cache.batch_repeat_interleave(rows)
        return _RowCaches(repeated_cache, self.shift)

    def keep_rows(self, rows: Sequence[int], device: torch.device) -> None:
        """Keep these rows only."""
        self.cache.batch_select_indices(torch.tensor(rows, device=device))


class ExpandedPath:
    """Runs jobs with the model's own forward and transformers' caches."""

    def __init__(
        self, runner: ModelRunner, lifecycle: RowLifecycle, limits: TransformersLimits
    ) -> None:
        self.runner = runner
        self._lifecycle = lifecycle
        self._limits = limits
        self._jobs: list[Job] = []
        self._prompts: OrderedDict[tuple[Reader | None, Tokens], tuple[_RowCaches, Tensor]] = (
            OrderedDict()
        )

    @property
    def idle(self) -> bool:
        """See :class:`~preftilt.engines.worker.StepScheduler`."""
        return not self._jobs

    def add(self, jobs: Iterable[Job]) -> None:
        """See :class:`~preftilt.engines.worker.StepScheduler`."""
        self._jobs.extend(jobs)

    def step(self) -> None:
        """Run the first request, or all score requests that share its prompt and prefix."""
        self._jobs = [job for job in self._jobs if not job.future.done()]
        if not self._jobs:
            return
        first = self._jobs[0]
        batch = [job for job in self._jobs if _batchable(first, job)][: self._limits.max_rows]
        self._jobs = [job for job in self._jobs if job not in batch]
        try:
            if isinstance(first, DrawJob):
                self._sample(first)
            elif isinstance(first, ProposeJob):
                self._propose(first)
            elif isinstance(first, NormaliseJob):
                self._normalise(first)
            else:
                self._score([job for job in batch if isinstance(job, ScoreJob)])
        except Exception as error:
            for job in batch:
                settle(job.future, failure("running the expanded path", error))

    def abort(self, error: Exception) -> None:
        """See :class:`~preftilt.engines.worker.StepScheduler`."""
        for job in self._jobs:
            settle(job.future, error)
        self._jobs = []

    def forget(self) -> None:
        """See :class:`~preftilt.engines.worker.StepScheduler`."""
        self._prompts.clear()

    def agrees(self, probe: Probe) -> bool:
        """Whether this path reproduces the plain forward of the runner's model on the probe."""
        ids = tuple(probe.tokens.tolist())
        cache, first = self._prompt(ids[:PROMPT])
        scored = self._forward(cache.repeated(2), probe.tokens[None, PROMPT:].repeat(2, 1))[1]
        decoded: list[Tensor] = []
        cache = cache.repeated(2)
        for token in ids[PROMPT:]:
            decoded.append(
                self._forward(cache, torch.tensor([[token]] * 2, device=self.runner.device))[1, -1]
            )
            cache.keep_rows([0, 1], self.runner.device)
        self._prompts.clear()
        got = torch.cat([first[None], scored, torch.stack(decoded)])
        want = torch.cat([probe.reference[PROMPT - 1 :], probe.reference[PROMPT:]])
        return same(got, want, self.runner.model.dtype)

    def _prompt(self, tokens: Tokens, reader: Reader | None = None) -> tuple[_RowCaches, Tensor]:
        """A prompt's cache, at batch size 1, and the logits [V] after it; starts from the longest cached prefix."""
        key = (reader, tokens)
        if key in self._prompts:
            self.runner.stats.prompt_hits += 1
            self._prompts.move_to_end(key)
            return self._prompts[key]
        known = (prompt for by, prompt in self._prompts if by == reader)
        cached_prefixes = (prompt for prompt in known if prompt == tokens[: len(prompt)])
        prefix = max(cached_prefixes, key=len, default=())
        self.runner.stats.prompt_tokens += len(tokens) - len(prefix)
        self.runner.stats.shared_tokens += len(prefix)
        cache = self._prompts[reader, prefix][0].repeated(1).cache if prefix else None
        new = torch.tensor([tokens[len(prefix) :]], device=self.runner.device)
        runner = self.runner.runner_of(reader)
        shifts = None if runner.embedder is None else runner.embedder.shifts(tokens)
        new_shifts = None if shifts is None else shifts[:, len(prefix) : -1]
        logits, cache = runner.forward_rows(new, cache, reader, new_shifts)
        cached = _RowCaches(cache, 0 if shifts is None else int(shifts[0, -1]))
        self._prompts[key] = (cached, self.runner.to_float32(logits[0, -1:])[0])
        while len(self._prompts) > KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return self._prompts[key]

    def _forward(self, cache: _RowCaches, tokens: Tensor, reader: Reader | None = None) -> Tensor:
        """Logits [N, L, V] after new ``tokens`` [N, L], which are appended to ``cache`` (N rows)."""
        shifts = torch.full((3, 1), cache.shift)
        logits, _ = self.runner.runner_of(reader).forward_rows(tokens, cache.cache, reader, shifts)
        return self.runner.to_float32(logits)

    def _sample(self, job: DrawJob) -> None:
        request = job.request
        prefilled = [
            self._prompt(state.tokens + state.prefix, state.reader) for state in job.prefix_states
        ]
        rows_at_once = max(1, self._limits.max_rows // len(prefilled))
        for start in range(0, len(request.slots), rows_at_once):
            count = min(rows_at_once, len(request.slots) - start)
            rows = [self._lifecycle.new_row(job, start + i) for i in range(count)]
            self.runner.stats.rows += count
            caches = [cache.repeated(count) for cache, _ in prefilled]
            self._draw_all(rows, caches, [logits.expand(count, -1) for _, logits in prefilled])

    def _draw_all(
        self, rows: list[SampledRow], caches: list[_RowCaches], logits: list[Tensor]
    ) -> None:
        """Draw token by token until every row has ended; ended rows leave the caches (one a view)."""
        while not rows[0].job.future.done():
            row_samplings = [
                row.row_sampling(tuple(range(i, len(rows) * len(caches), len(rows))))
                for i, row in enumerate(rows)
            ]
            tokens, logprobs = draw(torch.cat(logits), row_samplings)
            live = [
                i
                for i, row in enumerate(rows)
                if not self._lifecycle.add_token(row, tokens[i], logprobs[i])
            ]
            if not live:
                return
            if len(live) < len(rows):
                for cache in caches:
                    cache.keep_rows(live, self.runner.device)
                rows = [rows[i] for i in live]
            last = torch.tensor([[row.tokens[-1]] for row in rows], device=self.runner.device)
            self.runner.stats.response_tokens += len(rows) * len(caches)
            readers = [state.reader for state in rows[0].job.prefix_states]
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
                rest = self._forward(cache.repeated(1), tokens, read.reader)[0]
                logits = torch.cat([logits[None], rest])
            views.append(logits.view(len(completion), -1))
        self.runner.stats.response_tokens += (len(completion) - 1) * len(views)
        self.runner.stats.scored += len(completion)
        settle(
            job.future, mixture_logprobs(torch.stack(views, 1), job.request.mixtures, completion)
        )

    def _score(self, jobs: Sequence[ScoreJob]) -> None:
        """Score completions after the same prompt and prefix, padded on the right."""
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
            repeated = cache.repeated(len(jobs))
            rest = self._forward(repeated, tokens[:, :-1], request.reader)
            logits = torch.cat([logits, rest], dim=1)
        logprobs = (
            logprobs_of(logits.flatten(0, 1), tokens.flatten()).view(tokens.shape).cpu().numpy()
        )
        for job, row in zip(jobs, logprobs, strict=True):
            length = len(job.request.completion)
            self.runner.stats.scored += length
            settle(job.future, np.array(row[:length]))


def _batchable(first: Job, other: Job) -> bool:
    """Whether two requests can be run in one batch."""
    if not (isinstance(first, ScoreJob) and isinstance(other, ScoreJob)):
        return first is other
    a, b = first.request, other.request
    return (a.reader, a.prompt, a.prefix) == (b.reader, b.prompt, b.prefix)
