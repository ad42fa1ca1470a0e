"""The three kinds of tokens that a batch is made of: beginnings being read, given continuations, rows being drawn.

A feed owns a strand, offers the tokens to forward next, and takes in the logits that follow them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float

from preftilt.engines.llamacpp.jobs import LlamaSampleJob, LlamaScoreJob
from preftilt.engines.llamacpp.sampler import draw, logprobs_of
from preftilt.engines.llamacpp.sequences import LlamaSequence
from preftilt.engines.llamacpp.vocabulary import GgufTokenizer
from preftilt.engines.steps import step_ended
from preftilt.streams import position_key
from preftilt.types import Completion, Finish, Tokens


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """Tokens to forward; logits are wanted after the last ``outputs`` of them."""

    tokens: Tokens
    outputs: int


class BatchTask(Protocol):
    """Something that puts tokens into batches until it is ``done``."""

    strand: LlamaSequence

    @property
    def left(self) -> int:
        """Cells it will need at most from here on."""
        ...

    @property
    def done(self) -> bool:
        """It has nothing left to forward."""
        ...

    def offer(self, tokens: int, outputs: int) -> TokenChunk:
        """What to forward next, within a budget; nothing if the budget is too small."""
        ...

    def absorb(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        """Take in the logits of the last offer; a view that is overwritten later."""
        ...


@dataclass(eq=False, slots=True)
class PrefillTask:
    """A prompt with its prefix, forwarded once for every row and reading that continues it."""

    strand: LlamaSequence
    tokens: Tokens

    @property
    def left(self) -> int:
        return len(self.tokens) - self.strand.length

    @property
    def done(self) -> bool:
        return not self.left

    def offer(self, tokens: int, outputs: int) -> TokenChunk:
        start = self.strand.length
        if start + tokens < len(self.tokens):
            return TokenChunk(self.tokens[start : start + tokens], 0)
        return TokenChunk(self.tokens[start:], 1) if outputs else TokenChunk((), 0)

    def absorb(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        if len(logits):
            self.strand.logits = logits[0].copy()


@dataclass(eq=False, slots=True)
class ScoreTask:
    """A given completion: all its tokens but the last are forwarded, and each judges the next."""

    strand: LlamaSequence
    job: LlamaScoreJob
    logprobs: list[Float[np.ndarray, "T"]]
    read: int = 0

    @property
    def left(self) -> int:
        return len(self.job.request.completion) - 1 - self.read

    @property
    def done(self) -> bool:
        return not self.left

    def offer(self, tokens: int, outputs: int) -> TokenChunk:
        count = min(tokens, outputs, self.left)
        return TokenChunk(self.job.request.completion[self.read : self.read + count], count)

    def absorb(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        start = self.read + 1
        self.read += len(logits)
        self.job.done = 1 + self.read
        targets = np.array(self.job.request.completion[start : start + len(logits)], np.int64)
        self.logprobs.append(logprobs_of(logits, targets))


@dataclass(frozen=True, slots=True)
class StopCriteria:
    """When a response is over: at one of ``eos``, at the end of a step, or where its budget or the context ends."""

    eos: frozenset[int]
    tokenizer: GgufTokenizer


@dataclass(eq=False, slots=True)
class SampleTask:
    """One continuation being drawn. ``limit``: tokens it may get; ``text``: the bytes drawn, for finding steps."""

    strand: LlamaSequence
    job: LlamaSampleJob
    index: int
    key: int
    limit: int
    ending: StopCriteria
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: bytes = b""
    finish: Finish | None = None

    @property
    def left(self) -> int:
        return 0 if self.done else self.limit - len(self.drawn)

    @property
    def done(self) -> bool:
        return self.finish is not None

    def offer(self, tokens: int, outputs: int) -> TokenChunk:
        return TokenChunk((self.drawn[-1],), 1) if tokens and outputs else TokenChunk((), 0)

    def absorb(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        """Draw the next token, by its position in the whole response."""
        request = self.job.request
        position = len(request.prefix) + len(self.drawn)
        token = draw(logits[0], request.sampling, position_key(self.key, position))
        [logprob] = logprobs_of(logits, np.array([token]))
        self.drawn.append(token)
        self.job.done += 1
        self.logprobs.append(float(logprob))
        self.finish = self._end(token)
        self.job.tell(self.index, len(self.drawn) - 1, token, float(logprob), self.finish)

    @property
    def completion(self) -> Completion:
        """What was drawn, once it is done."""
        assert self.finish is not None
        return Completion(tuple(self.drawn), np.array(self.logprobs), self.finish)

    def _end(self, token: int) -> Finish | None:
        step = self.job.request.step
        if token in self.ending.eos:
            return "eos"
        if step is not None:
            self.text += self.ending.tokenizer.piece(token, special=True)
            if step_ended(self.text.decode("utf-8", "replace"), step.delimiter):
                return "stop"
        return "length" if len(self.drawn) >= self.limit else None
