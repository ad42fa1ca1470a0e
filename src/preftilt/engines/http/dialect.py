"""How one kind of server is asked: what a dialect has to do, and what its probe reports.

A dialect speaks token ids with the engine and whatever its server wants with the server. It neither cuts responses nor
counts them; the engine (``engine.py``) does that for all dialects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from preftilt.engines.facts import Fact
from preftilt.engines.http.connection import Connection
from preftilt.engines.http.responses import ModelCard, PromptLogprobs
from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import ModelTokenizer
from preftilt.errors import EngineError
from preftilt.types import Sampling, Tokens

PROBE_TEXT = "What shall we do on a rainy day, and why? We could read, paint, cook or play cards."
"""What servers are asked to read."""

ROUNDING = 1e-3
"""By how much (nats) a log-prob may exceed 0: a softmax in float32 does not add up to exactly 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRequest:
    """``n`` continuations of ``context``, of at most ``max_tokens`` tokens each.

    seed: 31 bits that name this request's randomness. stop: a text at which the server may end early; the engine cuts.
    logprobs: whether they are read; where not, a dialect may leave them out of its question.
    """

    context: Tokens
    n: int
    max_tokens: int
    sampling: Sampling
    seed: int
    stop: str | None = None
    logprobs: bool = True


@dataclass(frozen=True, slots=True)
class DrawnTokens:
    """Tokens as they were drawn, an end token included.

    logprobs: [T] nats, whatever scale the server uses; None where it gives none or was not asked. spent: the server
    says that it used its budget up, though text that was tokenised here may have fewer tokens.
    """

    tokens: Tokens
    logprobs: Float[np.ndarray, "T"] | None
    spent: bool = False


@dataclass(frozen=True, slots=True)
class DrawnChunk:
    """What came of response number ``index``: ``drawn`` stands from token ``start`` on, in place of what stood there.

    ended: the server says that this was all.
    """

    index: int
    start: int
    drawn: DrawnTokens
    ended: bool


class Dialect(Protocol):
    """One server, as its probe found it."""

    async def draw(self, request: DrawRequest) -> list[DrawnTokens]:
        """``request.n`` continuations."""
        ...

    def stream(self, request: DrawRequest) -> AsyncGenerator[DrawnChunk, None]:
        """What :meth:`draw` gives, as it comes; closing the generator ends the drawing."""
        ...

    async def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        """Raw log-probs of every completion (none is empty) after ``context``, float64."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe makes of a server.

    scores: whether it can score; without, it needs a scorer. sampler_logprobs: whether log-probs of drawing are raw and
    equal to scores. max_context: by the server's own word, None if it gives none. plan: how it will be asked, in words.
    """

    dialect: Dialect
    model: str
    scores: bool
    sampler_logprobs: bool
    max_context: int | None
    plan: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeContext:
    """What a probe may use; ``note`` takes every fact as soon as it is known."""

    connection: Connection
    options: EngineOptions
    tokenizer: ModelTokenizer
    note: Callable[[Fact], None]


Probe = Callable[[ProbeContext, ModelCard], Coroutine[Any, Any, ProbeResult]]
"""Asks a server a handful of tiny questions; raises ``BadInput`` with the remedy if it will not do."""


def probe_tokens(tokenizer: ModelTokenizer, length: int | None = None) -> Tokens:
    """The tokens of a plain text, which survive being spelled out; repeated up to ``length`` if that is given."""
    once = tokenizer.chat.encode(PROBE_TEXT)
    if length is None:
        return once
    return (once * (length // len(once) + 1))[:length]


def checked_logprobs(
    logprobs: Sequence[float | None], expected: int, where: str
) -> Float[np.ndarray, "T"]:
    """Log-probs that a server sent, as an array of ``expected`` entries.

    Raises :class:`~preftilt.errors.EngineError` for a wrong number of them, for gaps, NaN and values above 0.
    """
    if len(logprobs) != expected:
        raise EngineError(f"{where} sent {len(logprobs)} log-probs for {expected} tokens")
    if any(logprob is None for logprob in logprobs):
        raise EngineError(f"{where} left out log-probs of tokens that must have one")
    row = np.array(logprobs, dtype=np.float64)
    if not np.isfinite(row).all():
        raise EngineError(f"{where} sent log-probs that are no finite numbers")
    if (row > ROUNDING).any():
        raise EngineError(f"{where} sent a log-prob of {row.max():.3g}; none can exceed 0")
    return np.minimum(row, 0.0)


def completion_logprobs(
    entries: PromptLogprobs | None, context: Tokens, completion: Tokens, where: str
) -> Float[np.ndarray, "T"]:
    """The completion's part of a ``prompt_logprobs`` list over context and completion.

    Raises :class:`~preftilt.errors.EngineError` if an entry is not the given token's.
    """
    expected = len(context) + len(completion)
    if entries is None or len(entries) != expected:
        raise EngineError(
            f"{where} sent {len(entries or ())} log-probs of a prompt of {expected} tokens"
        )
    logprobs = []
    for token, entry in zip(completion, entries[len(context) :], strict=True):
        if entry is None or token not in entry:
            raise EngineError(
                f"{where} gave no log-prob of token {token}, which was asked about, but of another one: it may report"
                " the likeliest token, or be shifted by one; its scores cannot be used"
            )
        logprobs.append(entry[token].logprob)
    return checked_logprobs(logprobs, len(completion), where)
