"""What is measured when a file is opened: whether company in a batch changes log-probs.

Some kernels of llama.cpp add up in another order when a batch grows, and flash attention rounds; how much that moves
log-probs depends on the file, the machine and the build, so it is measured and not guessed.

What is measured on few tokens says little of quantised weights. Activations are rounded to 8 bits beside them, which
swallows differences in the last digits, until one lies at the edge of a step: then a log-prob moves by a hundredth of
a nat, once in a hundred tokens or once in a thousand. So nothing is concluded from a measurement that finds no gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.llamacpp.jobs import LlamaJob, LlamaSampleJob, LlamaScoreJob
from preftilt.engines.llamacpp.scheduler import LlamaCppScheduler
from preftilt.types import Completion, Sampling, Stream, Tokens

AGREE = 1e-4
"""Largest difference in log-prob (nats) at which two ways to compute it are the same."""

TEXT, OTHER = "Name a way to relax.", "What shall we do on a rainy day, and why?"
ROWS, TOKENS = 8, 12
"""Responses drawn together and their length: a hundred tokens, which even a slow machine reads in seconds."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Largest gaps in nats. crowd: a token drawn alone and in company; score: drawn and then scored.

    quantised: the gaps that were found are not the largest there are.
    """

    crowd: float
    score: float
    quantised: bool

    @property
    def exact(self) -> bool:
        """Whether it may be promised that drawing and scoring are the same in any company."""
        return max(self.crowd, self.score) <= AGREE and not self.quantised


def measure(scheduler: LlamaCppScheduler) -> Agreement:
    """Draw tokens alone, then beside others, then score them all together."""
    encode = scheduler.ending.tokenizer.encode
    prompt, other = encode(TEXT) or (0,), encode(OTHER) or (0,)
    [alone] = _draw(scheduler, [_request(prompt, slots=1)])
    company = _draw(scheduler, [_request(other, slots=3), _request(prompt, slots=ROWS)])[1]
    drawn = [*alone, *company]
    jobs = [
        LlamaScoreJob(ScoreRequest(prompt=prompt, completion=completion.tokens))
        for completion in drawn
    ]
    _finish(scheduler, jobs)
    scores = [job.future.result() for job in jobs]
    return Agreement(
        crowd=_gap(alone[0], company[0].tokens, company[0].logprobs),
        score=max(
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
    jobs = [LlamaSampleJob(request) for request in requests]
    _finish(scheduler, jobs)
    return [job.future.result() for job in jobs]


def _finish(scheduler: LlamaCppScheduler, jobs: Sequence[LlamaJob]) -> None:
    scheduler.add(jobs)
    while not scheduler.idle:
        scheduler.turn()
