"""Measures at opening whether log-probs depend on the batch.

Some kernels of llama.cpp sum in another order when a batch grows, and flash attention rounds; how much that changes
log-probs depends on the file, the machine and the build, so it is measured and not guessed.

A few tokens say little about quantised weights. Activations are rounded to 8 bits there, which hides differences in
the last digits until one falls on a rounding boundary: then a log-prob changes by a hundredth of a nat, once in a
hundred tokens or once in a thousand. So quantised weights are never called exact, whatever gap was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.llamacpp.batch_tasks import LlamaDrawJob, LlamaJob, LlamaScoreJob
from preftilt.engines.llamacpp.scheduler import LlamaCppScheduler
from preftilt.types import Completion, Sampling, Stream, Tokens

AGREE = 1e-4
"""Largest difference in log-prob (nats) at which two ways to compute it are the same."""

TEXT, OTHER = "Name a way to relax.", "What shall we do on a rainy day, and why?"
ROWS, TOKENS = 8, 12
"""Responses drawn together and their length: a hundred tokens, which even a slow machine reads in seconds."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Largest gaps in nats. batch_gap: of tokens drawn alone and in a batch; score_gap: of tokens drawn and scored.

    quantised: weights have fewer than 16 bits, so larger gaps than the measured ones are possible.
    """

    batch_gap: float
    score_gap: float
    quantised: bool

    @property
    def exact(self) -> bool:
        """Whether sampling and scoring are batch-invariant, and agree."""
        return max(self.batch_gap, self.score_gap) <= AGREE and not self.quantised


def measure(scheduler: LlamaCppScheduler) -> Agreement:
    """Draw tokens alone, then in a batch, then score them all in a batch."""
    encode = scheduler.stop.tokenizer.encode
    prompt, other = encode(TEXT) or (0,), encode(OTHER) or (0,)
    [alone] = _draw(scheduler, [_request(prompt, slots=1)])
    batched = _draw(scheduler, [_request(other, slots=3), _request(prompt, slots=ROWS)])[1]
    drawn = [*alone, *batched]
    jobs = [
        LlamaScoreJob(ScoreRequest(prompt=prompt, completion=completion.tokens))
        for completion in drawn
    ]
    _finish(scheduler, jobs)
    scores = [job.future.result() for job in jobs]
    return Agreement(
        batch_gap=_gap(alone[0], batched[0].tokens, batched[0].logprobs),
        score_gap=max(
            _gap(completion, completion.tokens, score)
            for completion, score in zip(drawn, scores, strict=True)
        ),
        quantised=scheduler.context.model.is_quantised,
    )


def _gap(drawn: Completion, tokens: Tokens, logprobs: np.ndarray) -> float:
    if drawn.tokens != tokens:
        return np.inf
    return float(np.abs(drawn.logprobs - logprobs).max())


def _request(prompt: Tokens, *, slots: int) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        slots=tuple(range(slots)),
        stream=Stream(0),
        sampling=Sampling(),
        max_tokens=TOKENS,
    )


def _draw(
    scheduler: LlamaCppScheduler, requests: Sequence[SampleRequest]
) -> list[list[Completion]]:
    jobs = [LlamaDrawJob(request) for request in requests]
    _finish(scheduler, jobs)
    return [job.future.result() for job in jobs]


def _finish(scheduler: LlamaCppScheduler, jobs: Sequence[LlamaJob]) -> None:
    scheduler.add(jobs)
    while not scheduler.idle:
        scheduler.step()
