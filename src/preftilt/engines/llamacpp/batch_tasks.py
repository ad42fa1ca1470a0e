"""Jobs (one a request), and the three kinds of tasks in a batch: prefilling, scoring, drawing.

A task owns a sequence, gives the next tokens to forward, and takes the logits that follow them. A response that is
drawn from several views has a task for each, and all of them stand in the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import DrawingRequest, Increment, SampleRequest, ScoreRequest
from preftilt.engines.llamacpp.sampler import draw, guided, logprobs_of
from preftilt.engines.llamacpp.sequences import LlamaSequence
from preftilt.engines.llamacpp.vocabulary import GgufTokenizer
from preftilt.engines.vocabulary import step_ended
from preftilt.engines.worker import settle
from preftilt.streams import position_key
from preftilt.types import Completion, Finish, GuidedCompletion, Tokens


@dataclass(eq=False, slots=True)
class LlamaDrawJob:
    """A request to draw responses, plain or guided.

    ``started`` counts the slots that were admitted, ``done`` the tokens drawn. ``on_increment`` is called with each of
    them.
    """

    request: DrawingRequest
    future: Future[list[Any]] = field(default_factory=Future)
    started: int = 0
    done: int = 0
    responses: dict[int, Completion | GuidedCompletion] = field(default_factory=dict)
    on_increment: Callable[[Increment], None] | None = None

    @property
    def contexts(self) -> tuple[Tokens, ...]:
        """All tokens before the first new one, of every view."""
        request = self.request
        views = (request,) if isinstance(request, SampleRequest) else request.views
        return tuple(view.prompt + request.prefix for view in views)

    @property
    def waiting(self) -> int:
        """Number of slots that were not admitted yet."""
        return len(self.request.slots) - self.started

    def emit(
        self,
        index: int,
        start: int,
        token: int,
        logprobs: Float[np.ndarray, "*K 1"],
        finish: Finish | None,
    ) -> None:
        """Report the token at position ``start`` of a slot."""
        if self.on_increment is not None:
            self.on_increment(
                Increment(
                    slot=self.request.slots[index],
                    start=start,
                    tokens=(token,),
                    logprobs=logprobs,
                    finish=finish,
                )
            )

    def finish(self, index: int, response: Completion | GuidedCompletion) -> None:
        """Complete a slot; with the last one, the request."""
        self.responses[index] = response
        if len(self.responses) == len(self.request.slots):
            settle(self.future, [self.responses[i] for i in range(len(self.request.slots))])


@dataclass(eq=False, slots=True)
class LlamaScoreJob:
    """A request for log-probs of a completion that is not empty; ``done`` counts its scored tokens."""

    request: ScoreRequest
    future: Future[np.ndarray] = field(default_factory=Future)
    done: int = 0

    @property
    def context(self) -> Tokens:
        """All tokens before those that are scored."""
        return self.request.prompt + self.request.prefix


LlamaJob = LlamaDrawJob | LlamaScoreJob


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
class DrawTask:
    """Draws one response, from one view or several: ``members`` own their sequences, in the order of the views.

    ``limit``: its token budget; ``text``: the bytes drawn, for finding the end of a step; ``logprobs``: those of every
    token drawn, [K].
    """

    job: LlamaDrawJob
    index: int
    key: int
    limit: int
    stop: StopCriteria
    members: list[MemberTask] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    logprobs: list[Float[np.ndarray, "K"]] = field(default_factory=list)
    text: bytes = b""
    finish: Finish | None = None

    @property
    def done(self) -> bool:
        return self.finish is not None

    def begin(self, sequences: Sequence[LlamaSequence], logits: Float[np.ndarray, "K V"]) -> None:
        """Draw the first token from the logits that follow the views' contexts, which ``sequences`` hold."""
        self.members = [MemberTask(sequence, self, sequence.length) for sequence in sequences]
        self._draw(logits)

    def advance(self) -> None:
        """Draw the next token, once every member has its logits; a token is the same for all of them."""
        rows = [member.logits for member in self.members if member.logits is not None]
        if len(rows) == len(self.members):
            self._draw(rows[0][None] if len(rows) == 1 else np.stack(rows))

    def _draw(self, logits: Float[np.ndarray, "K V"]) -> None:
        """The random key of a token is of its position in the whole response."""
        request = self.job.request
        key = position_key(self.key, len(request.prefix) + len(self.drawn))
        if isinstance(request, SampleRequest):
            token = draw(logits[0], request.sampling, key)
        else:
            token = draw(guided(logits, request), request.sampling, key)
        logprobs = logprobs_of(logits, np.full(len(logits), token))
        for member in self.members:
            member.logits = None
        self.drawn.append(token)
        self.job.done += 1
        self.logprobs.append(logprobs)
        self.finish = self._end(token)
        column = logprobs if isinstance(request, SampleRequest) else logprobs[:, None]
        self.job.emit(self.index, len(self.drawn) - 1, token, column, self.finish)

    @property
    def response(self) -> Completion | GuidedCompletion:
        """The response, once it is done."""
        assert self.finish is not None
        tokens, logprobs = tuple(self.drawn), np.stack(self.logprobs, axis=1)
        if isinstance(self.job.request, SampleRequest):
            return Completion(tokens, logprobs[0], self.finish)
        return GuidedCompletion(tokens, logprobs, self.finish)

    def _end(self, token: int) -> Finish | None:
        step = self.job.request.step
        if token in self.stop.eos:
            return "eos"
        if step is not None:
            self.text += self.stop.tokenizer.piece(token, special=True)
            if step_ended(self.text.decode("utf-8", "replace"), step.delimiter):
                return "step"
        return "length" if len(self.drawn) >= self.limit else None


@dataclass(eq=False, slots=True)
class MemberTask:
    """One view of a response that is drawn.

    ``start``: tokens of its context; ``logits`` [V]: of the next token, while other views lack theirs.
    """

    sequence: LlamaSequence
    task: DrawTask
    start: int
    logits: Float[np.ndarray, "V"] | None = None

    @property
    def remaining_cells(self) -> int:
        return 0 if self.done else self.start + self.task.limit - 1 - self.sequence.length

    @property
    def done(self) -> bool:
        return self.task.done

    def next_chunk(self, tokens: int, outputs: int) -> TokenChunk:
        waits = self.logits is not None or not (tokens and outputs)
        return TokenChunk((), 0) if waits else TokenChunk((self.task.drawn[-1],), 1)

    def take_logits(self, logits: Float[np.ndarray, "outputs V"]) -> None:
        alone = len(self.task.members) == 1
        self.logits = logits[0] if alone else logits[0].copy()
        self.task.advance()
