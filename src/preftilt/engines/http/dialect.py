"""The interface of dialects (one kind of server each), and of the probes that set them up.

A dialect takes and returns token ids, and translates them to its server's API. It neither cuts responses nor counts
them; the engine (``engine.py``) does that for all dialects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Fact
from preftilt.engines.http.connection import Connection
from preftilt.engines.http.responses import ModelCard, PromptLogprobs
from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import ModelTokenizer
from preftilt.errors import EngineError
from preftilt.types import Finish, Sampling, Tokens

COMPLETIONS = "/v1/completions"

PROBE_TEXT = "What shall we do on a rainy day, and why? We could read, paint, cook or play cards."
"""The text that probes score."""

ROUNDING = 1e-3
"""By how much (nats) a log-prob may exceed 0: a softmax in float32 does not add up to exactly 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRequest:
    """``n`` completions of ``context``, of at most ``max_tokens`` tokens each.

    seed: 31 bits. stop: a text at which the server may end early; the engine cuts there. logprobs: whether they are
    needed; if not, a dialect need not request them.
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
    """Drawn tokens, an end token included.

    logprobs: [T] nats, raw or scaled; None if the server sent none. finish: how the server says that text ended, which
    was tokenised here: the tokens may have no end, and be fewer than the budget. absent: as in
    :class:`~preftilt.types.Completion`.
    """

    tokens: Tokens
    logprobs: Float[np.ndarray, "T"] | None
    finish: Finish | None = None
    absent: str = ""


@dataclass(frozen=True, slots=True)
class DrawnChunk:
    """A chunk of response ``index``: ``drawn`` replaces its tokens from ``start`` on.

    ended: the server reports the end of the response.
    """

    index: int
    start: int
    drawn: DrawnTokens
    ended: bool


class Dialect(Protocol):
    """The API of one server."""

    async def draw(self, request: DrawRequest) -> list[DrawnTokens]:
        """``request.n`` completions."""
        ...

    def stream(self, request: DrawRequest) -> AsyncGenerator[DrawnChunk, None]:
        """As :meth:`draw`, streamed; closing the generator ends the drawing."""
        ...

    async def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        """Raw log-probs of every completion (none is empty) after ``context``, float64."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The result of a probe.

    scores: whether the server can score; if not, it needs a scorer. sampler_logprobs: whether log-probs of sampling are
    raw and equal to scores. max_context: as the server reports it, or None. plan: how it will be used, in words.
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
    """What a probe gets; it reports every fact with ``note`` as soon as it is known."""

    connection: Connection
    options: EngineOptions
    tokenizer: ModelTokenizer
    note: Callable[[Fact], None]


Probe = Callable[[ProbeContext, ModelCard], Coroutine[Any, Any, ProbeResult]]
"""Probes a server with a few tiny requests; raises ``BadInput`` with a remedy if it cannot be used."""


def probe_tokens(tokenizer: ModelTokenizer, length: int | None = None) -> Tokens:
    """The tokens of a plain text, which detokenises and retokenises to itself; repeated up to ``length``, if given."""
    once = tokenizer.chat.encode(PROBE_TEXT)
    if length is None:
        return once
    return (once * (length // len(once) + 1))[:length]


def checked_logprobs(
    logprobs: Sequence[float | None], expected: int, where: str
) -> Float[np.ndarray, "T"]:
    """Check a server's log-probs; returns them as an array of ``expected`` entries.

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
