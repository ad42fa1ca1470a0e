"""The sequences of the engine, each a request to vLLM: its sampling parameters, and how its outputs are read.

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

from preftilt.engines.base import Increment, SampleRequest
from preftilt.engines.vocabulary import Vocabulary, step_ended
from preftilt.errors import EngineError
from preftilt.streams import position_key, stream_key
from preftilt.types import Completion, Finish, Tokens

ROUNDING = 1e-3
"""By how much (nats) a log-prob may exceed 0: a softmax in float32 does not add up to exactly 1."""

SEEDS = (1 << 63) - 1
"""Seeds are signed 64-bit numbers."""

INTERVAL = 8
"""Tokens between two outputs of a sequence: often enough to show progress, at hardly any cost."""


class VllmSequence(Protocol):
    """The interface of sequences to the worker."""

    @property
    def tokens(self) -> Tokens:
        """The prompt that vLLM gets."""
        ...

    @property
    def params(self) -> SamplingParams:
        """vLLM's sampling parameters."""
        ...

    @property
    def future(self) -> Future[Any]:
        """The future of its result."""
        ...

    @property
    def done(self) -> int:
        """Tokens drawn or scored so far, as far as vLLM has reported."""
        ...

    def take_output(self, output: RequestOutput) -> object | None:
        """Process an output; returns the result once it is complete, and None before."""
        ...


@dataclass(eq=False, slots=True)
class SampleSequence:
    """Samples one slot of a request; ``on_increment`` is called with its new tokens.

    seeded: whether the slot's seed goes to vLLM; without, another call draws other tokens.
    """

    request: SampleRequest
    slot: int
    vocabulary: Vocabulary
    seeded: bool = True
    future: Future[Completion] = field(default_factory=Future)
    on_increment: Callable[[Increment], None] | None = None
    _drawn: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _text: str = ""

    @property
    def tokens(self) -> Tokens:
        return self.request.prompt + self.request.prefix

    @property
    def params(self) -> SamplingParams:
        """All settings are explicit, so that no default of vLLM or of the model's files changes the distribution."""
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
            seed=key & SEEDS if self.seeded else None,
            max_tokens=self.request.max_tokens,
            ignore_eos=True,
            stop_token_ids=sorted(self.vocabulary.eos),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            # A step may end at any token; other ends are left to vLLM.
            stream_interval=1 if self.request.step else INTERVAL,
        )

    @property
    def done(self) -> int:
        return len(self._drawn)

    def take_output(self, output: RequestOutput) -> Completion | None:
        """Append new tokens up to the end of the step, the response or the budget."""
        start = len(self._drawn)
        finish = self._append(output)
        if self.on_increment is not None:
            self.on_increment(
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

    def _append(self, output: RequestOutput) -> Finish | None:
        """Append tokens; returns why the response ends with them, or None if it goes on."""
        [new] = output.outputs
        for token, entry in zip(new.token_ids, new.logprobs or (), strict=True):
            self._drawn.append(token)
            self._logprobs.append(entry[token].logprob)
            if token in self.vocabulary.eos:
                return "eos"
            if self._ends_step():
                return "step"
        return "length" if output.finished else None

    def _ends_step(self) -> bool:
        if self.request.step is None:
            return False
        delimiter = self.request.step.delimiter
        self._text = self.vocabulary.extended_step_text(self._text, self._drawn, delimiter)
        return step_ended(self._text, delimiter)


@dataclass(frozen=True, slots=True)
class NotComputed:
    """vLLM took some of the tokens from its cache, so that their log-probs were not computed."""


@dataclass(eq=False, slots=True)
class ScoreSequence:
    """Scores ``completion`` after ``context``, without its first ``skipped`` tokens.

    ``shared`` lets vLLM take the prompt's prefix from its cache, which it does not do for log-probs by default: the
    rows that it does not compute are uninitialised memory. So rows are read only where vLLM reports that it computed
    them, and the result is :class:`NotComputed` if any is missing. ``cached`` says afterwards how many tokens came
    from the cache.
    """

    context: Tokens
    completion: Tokens
    shared: bool
    skipped: int = 0
    future: Future[np.ndarray | NotComputed] = field(default_factory=Future)
    cached: int = 0

    @property
    def tokens(self) -> Tokens:
        return self.context + self.completion

    @property
    def params(self) -> SamplingParams:
        """``detokenize`` must be off: rows that were not computed hold invalid ids."""
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

    def take_output(self, output: RequestOutput) -> np.ndarray | NotComputed:
        self.cached = output.num_cached_tokens or 0
        start = len(self.context) + self.skipped
        # The log-prob of token i is computed at position i − 1, which must not be cached.
        if self.shared and self.cached >= start:
            return NotComputed()
        rows = output.prompt_logprobs or []
        scored_tokens = self.completion[self.skipped :]
        available = max(0, len(rows) - start)
        entries = [rows[start + i].get(token) for i, token in enumerate(scored_tokens[:available])]
        values = [
            entry.logprob for entry in entries if entry is not None and is_logprob(entry.logprob)
        ]
        if len(values) == len(scored_tokens):
            return np.minimum(np.array(values, dtype=np.float64), 0.0)
        if self.shared:
            return NotComputed()
        raise EngineError(
            f"vLLM returned log-probs of {len(values)} of {len(scored_tokens)} given tokens; use another version of"
            " vLLM"
        )


@dataclass(eq=False, slots=True)
class FirstTokenScore:
    """Scores a first token by drawing it: no other token is allowed, and log-probs are raw.

    Where ``context`` fills its last cache block, a :class:`ScoreSequence` with ``shared`` cannot score the first token.
    """

    context: Tokens
    token: int
    future: Future[float] = field(default_factory=Future)

    @property
    def tokens(self) -> Tokens:
        return self.context

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
        return 0  # Counted with the ScoreSequence that it belongs to.

    def take_output(self, output: RequestOutput) -> float:
        [drawn] = output.outputs
        [entry] = drawn.logprobs or [{}]
        if self.token not in entry or not is_logprob(entry[self.token].logprob):
            raise EngineError(
                "vLLM drew a token that it was not allowed to; use another version of vLLM"
            )
        return min(entry[self.token].logprob, 0.0)


def is_logprob(value: float) -> bool:
    """Whether it is a valid log-prob: finite, and not above 0 by more than rounding."""
    return math.isfinite(value) and value <= ROUNDING
