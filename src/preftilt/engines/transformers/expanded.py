"""The slow path that asks nothing of a model's insides: transformers' own cache, repeated for every row.

Used for architectures that do not agree with shared-prefix attention when they are opened (position biases, recurrent
state). One request after another; the prompt is still prefilled once, and candidates of one prompt are scored together.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preftilt.engines.transformers.jobs import DrawJob, Job, ProposeJob, ScoreJob, settle
from preftilt.engines.transformers.probe import PROMPT, Probe, gap, tolerance
from preftilt.engines.transformers.rows import Row, RowEnd
from preftilt.engines.transformers.runner import Runner
from preftilt.engines.transformers.sampler import draw, likeliest, logprobs_of
from preftilt.engines.transformers.scheduler import Limits, failure
from preftilt.types import Tokens

KEPT_PROMPTS = 4
"""Prompts whose caches are kept; each is as large as the model makes it."""


class ExpandedPath:
    """Serves jobs with plain forwards and transformers' caches."""

    def __init__(self, runner: Runner, ends: RowEnd, limits: Limits) -> None:
        self.runner = runner
        self._ends = ends
        self._limits = limits
        self._jobs: list[Job] = []
        self._prompts: OrderedDict[Tokens, tuple[Any, Tensor]] = OrderedDict()

    @property
    def idle(self) -> bool:
        """See :class:`~preftilt.engines.transformers.worker.Path`."""
        return not self._jobs

    def add(self, jobs: Iterable[Job]) -> None:
        """See :class:`~preftilt.engines.transformers.worker.Path`."""
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
            else:
                self._score([job for job in together if isinstance(job, ScoreJob)])
        except Exception as error:
            for job in together:
                settle(job.future, failure("running the expanded path", error))

    def abort(self, error: Exception) -> None:
        """See :class:`~preftilt.engines.transformers.worker.Path`."""
        for job in self._jobs:
            settle(job.future, error)
        self._jobs = []

    def forget(self) -> None:
        """See :class:`~preftilt.engines.transformers.worker.Path`."""
        self._prompts.clear()

    def agrees(self, probe: Probe) -> bool:
        """Whether this path reproduces the model's plain forward on the probe."""
        ids = tuple(probe.tokens.tolist())
        cache, first = self._prompt(ids[:PROMPT])
        scored = self._forward(_copies(cache, 2), probe.tokens[None, PROMPT:].repeat(2, 1))[1]
        decoded: list[Tensor] = []
        cache = _copies(cache, 2)
        for token in ids[PROMPT:]:
            decoded.append(
                self._forward(cache, torch.tensor([[token]] * 2, device=self.runner.device))[1, -1]
            )
            cache.batch_select_indices(torch.tensor([0, 1], device=self.runner.device))
        self._prompts.clear()
        limit = tolerance(self.runner.model.dtype)
        got = torch.cat([first[None], scored, torch.stack(decoded)])
        want = torch.cat([probe.reference[PROMPT - 1 :], probe.reference[PROMPT:]])
        return gap(got, want) <= limit

    def _prompt(self, tokens: Tokens) -> tuple[Any, Tensor]:
        """A prompt's cache, at batch 1, and the logits [V] after it; one that is kept and begins it is taken over."""
        if tokens in self._prompts:
            self.runner.stats.prompt_hits += 1
            self._prompts.move_to_end(tokens)
            return self._prompts[tokens]
        begun = max((p for p in self._prompts if p == tokens[: len(p)]), key=len, default=())
        self.runner.stats.prompt_tokens += len(tokens) - len(begun)
        self.runner.stats.shared_tokens += len(begun)
        cache = _copies(self._prompts[begun][0], 1) if begun else None
        new = torch.tensor([tokens[len(begun) :]], device=self.runner.device)
        self.runner.stats.forwards += 1
        out = self.runner.model(input_ids=new, past_key_values=cache, use_cache=True)
        self._prompts[tokens] = (out.past_key_values, self.runner.clean(out.logits[0, -1:])[0])
        while len(self._prompts) > KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return self._prompts[tokens]

    def _forward(self, cache: Any, tokens: Tensor) -> Tensor:
        """Logits [N, L, V] after new ``tokens`` [N, L]; ``cache`` [N rows] grows by them."""
        self.runner.stats.forwards += 1
        out = self.runner.model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return self.runner.clean(out.logits)

    def _sample(self, job: DrawJob) -> None:
        request = job.request
        known = [self._prompt(ground.tokens + ground.prefix) for ground in job.grounds]
        rows_at_once = max(1, self._limits.max_rows // len(known))
        for start in range(0, len(request.slots), rows_at_once):
            count = min(rows_at_once, len(request.slots) - start)
            rows = [self._ends.new_row(job, start + i) for i in range(count)]
            self.runner.stats.rows += count
            caches = [_copies(cache, count) for cache, _ in known]
            self._draw_all(rows, caches, [logits.expand(count, -1) for _, logits in known])

    def _draw_all(self, rows: list[Row], caches: list[Any], logits: list[Tensor]) -> None:
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
                    cache.batch_select_indices(torch.tensor(live, device=self.runner.device))
                rows = [rows[i] for i in live]
            last = torch.tensor([[row.tokens[-1]] for row in rows], device=self.runner.device)
            self.runner.stats.response_tokens += len(rows) * len(caches)
            logits = [self._forward(cache, last)[:, -1] for cache in caches]

    def _propose(self, job: ProposeJob) -> None:
        request = job.request
        _, logits = self._prompt(request.prompt + request.prefix)
        settle(job.future, likeliest(logits, request.count))

    def _score(self, jobs: Sequence[ScoreJob]) -> None:
        """Candidates after one and the same prompt and prefix, padded on the right."""
        request = jobs[0].request
        cache, first = self._prompt(request.prompt + request.prefix)
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
            logits = torch.cat(
                [logits, self._forward(_copies(cache, len(jobs)), tokens[:, :-1])], dim=1
            )
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
    return a.prompt == b.prompt and a.prefix == b.prefix


def _copies(cache: Any, rows: int) -> Any:
    """A copy of a cache for so many rows; the original stays as it is."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied
