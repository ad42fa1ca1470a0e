"""Jobs (one a request), and the three kinds of tasks in a batch: prefilling, scoring, sampling.

A task owns a sequence, gives the next tokens to forward, and takes the logits that follow them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Increment, SampleRequest, ScoreRequest
from preftilt.engines.llamacpp.sampler import draw, logprobs_of
from preftilt.engines.llamacpp.sequences import LlamaSequence
from preftilt.engines.llamacpp.vocabulary import GgufTokenizer
from preftilt.engines.vocabulary import step_ended
from preftilt.engines.worker import settle
from preftilt.streams import position_key
from preftilt.types import Completion, Finish, Tokens


@dataclass(eq=False, slots=True)
class LlamaSampleJob:
    """A request to draw completions; ``started`` counts the slots that were admitted, ``done`` the tokens drawn.

    ``on_increment`` is called with each of them.
    """

    request: SampleRequest
    future: Future[list[Completion]] = field(default_factory=Future)
    started: int = 0
    done: int = 0
    completions: dict[int, Completion] = field(default_factory=dict)
    on_increment: Callable[[Increment], None] | None = None

    @property
    def context(self) -> Tokens:
        """All tokens before the first new one."""
        return self.request.prompt + self.request.prefix

    @property
    def waiting(self) -> int:
        """Number of slots that were not admitted yet."""
        return len(self.request.slots) - self.started

    def emit(
        self, index: int, start: int, token: int, logprob: float, finish: Finish | None
    ) -> None:
        """Report the token at position ``start`` of a slot."""
        if self.on_increment is not None:
            self.on_increment(
                Increment(
                    slot=self.request.slots[index],
                    start=start,
                    tokens=(token,),
                    logprobs=np.array([logprob]),
                    finish=finish,
                )
            )

    def finish(self, index: int, completion: Completion) -> None:
        """Complete a slot; with the last one, the request."""
        self.completions[index] = completion
        if len(self.completions) == len(self.request.slots):
            settle(self.future, [self.completions[i] for i in range(len(self.request.slots))])


@dataclass(eq=False, slots=True)
class LlamaScoreJob:
    """A request for log-probs of a completion that is not empty; ``done`` counts its scored tokens."""

    request: ScoreRequest
    future: Future[np.ndarray] = field(default_factory=Future)
    done: int = 0

    @property
    def context(self) -> Tokens:
        """As :attr:`LlamaSampleJob.context`."""
        return self.request.prompt + self.request.prefix


LlamaJob = LlamaSampleJob | LlamaScoreJob


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens to forward; logits are wanted after the last ``outputs`` of them."""

    tokens: Tokens
    outputs: int


class BatchTask(Protocol):
    """Adds tokens to batches until it is ``done``."""

    sequence: LlamaSequence

    @property
    def remaining_cells(self) -> int:
        """Upper bound on the cells that it still needs."""
        ...

    @property
    def done(self) -> bool:
        """Whether it has nothing left to forward."""
        ...

    def next_chunk(self, tokens: int, outputs: int) -> TokenChunk:
        """The next tokens to forward, within a budget; none if the budget is too small."""
        ...

    def take_logits(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        """Take the logits of the last chunk; the array is overwritten by the next batch."""
        ...


@dataclass(eq=False, slots=True)
class PrefillTask:
    """Prefills a prompt and its response prefix, once for all tasks that continue it."""

    sequence: LlamaSequence
    tokens: Tokens

    @property
    def remaining_cells(self) -> int:
        return len(self.tokens) - self.sequence.length

    @property
    def done(self) -> bool:
        return not self.remaining_cells

    def next_chunk(self, tokens: int, outputs: int) -> TokenChunk:
        start = self.sequence.length
        if start + tokens < len(self.tokens):
            return TokenChunk(self.tokens[start : start + tokens], 0)
        return TokenChunk(self.tokens[start:], 1) if outputs else TokenChunk((), 0)

    def take_logits(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        if len(logits):
            self.sequence.logits = logits[0].copy()


@dataclass(eq=False, slots=True)
class ScoreTask:
    """Scores a completion: all its tokens but the last are forwarded, each for the log-prob of the next."""

    sequence: LlamaSequence
    job: LlamaScoreJob
    logprobs: list[Float[np.ndarray, "T"]]
    scored: int = 0

    @property
    def remaining_cells(self) -> int:
        return len(self.job.request.completion) - 1 - self.scored

    @property
    def done(self) -> bool:
        return not self.remaining_cells

    def next_chunk(self, tokens: int, outputs: int) -> TokenChunk:
        count = min(tokens, outputs, self.remaining_cells)
        return TokenChunk(self.job.request.completion[self.scored : self.scored + count], count)

    def take_logits(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        start = self.scored + 1
        self.scored += len(logits)
        self.job.done = 1 + self.scored
        targets = np.array(self.job.request.completion[start : start + len(logits)], np.int64)
        self.logprobs.append(logprobs_of(logits, targets))


@dataclass(frozen=True, slots=True)
class StopCriteria:
    """What ends a response besides its budget: one of ``eos``, or the end of a search step."""

    eos: frozenset[int]
    tokenizer: GgufTokenizer


@dataclass(eq=False, slots=True)
class SampleTask:
    """Samples one response. ``limit``: its token budget; ``text``: the bytes drawn, for finding the end of a step."""

    sequence: LlamaSequence
    job: LlamaSampleJob
    index: int
    key: int
    limit: int
    stop: StopCriteria
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: bytes = b""
    finish: Finish | None = None

    @property
    def remaining_cells(self) -> int:
        return 0 if self.done else self.limit - len(self.drawn)

    @property
    def done(self) -> bool:
        return self.finish is not None

    def next_chunk(self, tokens: int, outputs: int) -> TokenChunk:
        return TokenChunk((self.drawn[-1],), 1) if tokens and outputs else TokenChunk((), 0)

    def take_logits(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        """Draw the next token; its random key is of its position in the whole response."""
        request = self.job.request
        position = len(request.prefix) + len(self.drawn)
        token = draw(logits[0], request.sampling, position_key(self.key, position))
        [logprob] = logprobs_of(logits, np.array([token]))
        self.drawn.append(token)
        self.job.done += 1
        self.logprobs.append(float(logprob))
        self.finish = self._end(token)
        self.job.emit(self.index, len(self.drawn) - 1, token, float(logprob), self.finish)

    @property
    def completion(self) -> Completion:
        """The drawn completion, once it is done."""
        assert self.finish is not None
        return Completion(tuple(self.drawn), np.array(self.logprobs), self.finish)

    def _end(self, token: int) -> Finish | None:
        step = self.job.request.step
        if token in self.stop.eos:
            return "eos"
        if step is not None:
            self.text += self.stop.tokenizer.piece(token, special=True)
            if step_ended(self.text.decode("utf-8", "replace"), step.delimiter):
                return "stop"
        return "length" if len(self.drawn) >= self.limit else None
