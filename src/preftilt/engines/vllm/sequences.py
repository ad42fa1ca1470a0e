"""One sequence, one request to vLLM: what it is asked, and how its answers are read.

vLLM itself turns a request for n continuations into n requests, which share their prompt through the prefix cache.
Here every slot is a request of its own from the start, so that each has its own seed and can end by itself.
"""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from vllm import RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

from preftilt.engines.base import SampleRequest
from preftilt.engines.steps import step_ended
from preftilt.engines.streaming import Increment
from preftilt.engines.vocabulary import Vocabulary
from preftilt.errors import EngineError
from preftilt.streams import position_key, stream_key
from preftilt.types import Completion, Finish, Tokens

ROUNDING = 1e-3
"""By how much (nats) a log-prob may exceed 0: a softmax in float32 does not add up to exactly 1."""

SEEDS = (1 << 63) - 1
"""Seeds are signed 64-bit numbers."""

INTERVAL = 8
"""Tokens after which a sequence is heard of while it is drawn: often enough to show progress, and next to no work."""


class VllmSequence(Protocol):
    """What the worker needs to know of a sequence."""

    @property
    def tokens(self) -> Tokens:
        """What vLLM reads before it draws."""
        ...

    @property
    def params(self) -> SamplingParams:
        """What it shall do then."""
        ...

    @property
    def future(self) -> Future[Any]:
        """Where the result goes."""
        ...

    @property
    def done(self) -> int:
        """Tokens drawn or read so far, as far as vLLM has told."""
        ...

    def read(self, output: RequestOutput) -> object | None:
        """The result, once an answer completes it, and None before."""
        ...


@dataclass(eq=False, slots=True)
class SampleSequence:
    """The continuation of one slot of a request; ``told`` is given what vLLM tells of it."""

    request: SampleRequest
    slot: int
    vocabulary: Vocabulary
    future: Future[Completion] = field(default_factory=Future)
    told: Callable[[Increment], None] | None = None
    _drawn: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _text: str = ""

    @property
    def tokens(self) -> Tokens:
        return self.request.prompt + self.request.prefix

    @property
    def params(self) -> SamplingParams:
        """Every setting is named, so that no default of vLLM's or of the model's files changes what is drawn."""
        sampling = self.request.sampling
        key = position_key(stream_key(self.request.stream, self.slot), len(self.request.prefix))
        return SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            seed=key & SEEDS,
            max_tokens=self.request.max_tokens,
            ignore_eos=True,
            stop_token_ids=sorted(self.vocabulary.eos),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            # A step may end at any token; what ends by itself, vLLM ends.
            stream_interval=1 if self.request.step else INTERVAL,
        )

    @property
    def done(self) -> int:
        return len(self._drawn)

    def read(self, output: RequestOutput) -> Completion | None:
        """Takes in new tokens up to the end of the step, the response or the budget."""
        start = len(self._drawn)
        finish = self._take(output)
        if self.told is not None:
            self.told(
                Increment(
                    slot=self.slot,
                    start=start,
                    tokens=tuple(self._drawn[start:]),
                    logprobs=np.array(self._logprobs[start:], dtype=np.float64),
                    finish=finish,
                )
            )
        if finish is None:
            return None
        return Completion(tuple(self._drawn), np.array(self._logprobs, dtype=np.float64), finish)

    def _take(self, output: RequestOutput) -> Finish | None:
        """Why the continuation ends with these tokens; None if it goes on."""
        [new] = output.outputs
        for token, entry in zip(new.token_ids, new.logprobs or (), strict=True):
            self._drawn.append(token)
            self._logprobs.append(entry[token].logprob)
            if token in self.vocabulary.eos:
                return "eos"
            if self._ends_step():
                return "stop"
        return "length" if output.finished else None

    def _ends_step(self) -> bool:
        if self.request.step is None:
            return False
        delimiter = self.request.step.delimiter
        self._text = self.vocabulary.grown(self._text, self._drawn, delimiter)
        return step_ended(self._text, delimiter)


@dataclass(frozen=True, slots=True)
class NotComputed:
    """The answer does not hold the log-probs asked for: vLLM took their tokens from its cache."""


@dataclass(eq=False, slots=True)
class ScoreSequence:
    """Log-probs of ``completion`` after ``before``, but for its first ``skip`` tokens.

    ``shared`` lets vLLM take the beginning of the prompt from its cache, which it does not do for log-probs by
    itself: the rows it does not compute are memory that nobody has written. So rows are read only where vLLM says
    it has computed them, and the result is :class:`NotComputed` if any is missing. ``cached`` says afterwards how many
    tokens came from the cache.
    """

    before: Tokens
    completion: Tokens
    shared: bool
    skip: int = 0
    future: Future[np.ndarray | NotComputed] = field(default_factory=Future)
    cached: int = 0

    @property
    def tokens(self) -> Tokens:
        return self.before + self.completion

    @property
    def params(self) -> SamplingParams:
        """``detokenize`` must be off: rows that were not computed hold ids that no vocabulary has."""
        return SamplingParams(
            n=1,
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            skip_reading_prefix_cache=not self.shared,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    @property
    def done(self) -> int:
        return len(self.completion) if self.future.done() else 0

    def read(self, output: RequestOutput) -> np.ndarray | NotComputed:
        self.cached = output.num_cached_tokens or 0
        start = len(self.before) + self.skip
        # The log-prob of token i comes out of position i − 1, so that one must have been computed.
        if self.shared and self.cached >= start:
            return NotComputed()
        rows = output.prompt_logprobs or []
        wanted = self.completion[self.skip :]
        there = max(0, len(rows) - start)
        entries = [rows[start + i].get(token) for i, token in enumerate(wanted[:there])]
        values = [
            entry.logprob for entry in entries if entry is not None and is_logprob(entry.logprob)
        ]
        if len(values) == len(wanted):
            return np.minimum(np.array(values, dtype=np.float64), 0.0)
        if self.shared:
            return NotComputed()
        raise EngineError(
            f"vLLM returned log-probs of {len(values)} of {len(wanted)} given tokens; use another version of vLLM"
        )


@dataclass(eq=False, slots=True)
class FirstTokenScore:
    """Log-prob of ``token`` after ``before``, by drawing it: it is all that may be drawn, and log-probs are raw.

    Where ``before`` fills its last cache block, a :class:`ScoreSequence` that shares it cannot see its first token.
    """

    before: Tokens
    token: int
    future: Future[float] = field(default_factory=Future)

    @property
    def tokens(self) -> Tokens:
        return self.before

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            n=1,
            temperature=0.0,
            max_tokens=1,
            ignore_eos=True,
            allowed_token_ids=[self.token],
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    @property
    def done(self) -> int:
        return 0  # It is counted with the reading that it belongs to.

    def read(self, output: RequestOutput) -> float:
        [drawn] = output.outputs
        [entry] = drawn.logprobs or [{}]
        if self.token not in entry or not is_logprob(entry[self.token].logprob):
            raise EngineError(
                "vLLM drew a token that it was not allowed to; use another version of vLLM"
            )
        return min(entry[self.token].logprob, 0.0)


def is_logprob(value: float) -> bool:
    """Whether it can be one: finite, and not above 0 by more than rounding."""
    return math.isfinite(value) and value <= ROUNDING
