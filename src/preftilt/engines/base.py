"""The engine contract: sample completions, score given ones; token ids in, token ids out.

Both calls take lists and return lists in the same order. No cache handle crosses the interface: an engine that keeps
key/value caches finds them by token ids. The laws that an engine must obey are executable: ``preftilt.testing.laws``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from preftilt.arm.spec import Objective
from preftilt.prompt import ChatTokenizer
from preftilt.types import Completion, Reader, Sampling, Step, Stream, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Draw one completion of ``prompt + prefix`` for every slot.

    ``prefix`` is the part of the response that exists already; the first new token has position ``len(prefix)`` in the
    random stream of its slot, so drawing in chunks and at once give the same tokens. ``keep``: the caller expects to
    continue or score these completions, a hint to keep their caches. ``logprobs``: whether the caller needs
    log-probs; if not, an engine may return zeros; tokens are the same.
    """

    prompt: Tokens
    prefix: Tokens = ()
    slots: tuple[int, ...]
    stream: Stream
    sampling: Sampling
    max_tokens: int
    step: Step | None = None
    keep: bool = False
    logprobs: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Log-probs of ``completion`` after ``prompt + prefix``; ``keep`` as in :class:`SampleRequest`.

    ``reader``: score under one of the engine's reward models in place of its base model.
    """

    prompt: Tokens
    prefix: Tokens = ()
    completion: Tokens
    keep: bool = False
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class KnownArm:
    """An autoregressive reward model (ARM) that an engine has open.

    name: as in :class:`~preftilt.types.Reader`. objectives: those that its preference vector weighs, in order.
    method: how it was made, e.g. ``genarm``.
    """

    name: str
    objectives: tuple[Objective, ...]
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """An engine's abilities, established when it is opened.

    max_context: tokens of prompt and response together.
    eos: ids that end a response.
    turn_end: the one of them with which the model's chat template ends an answer; given responses end with it.
    sampler_logprobs: the log-probs of ``sample`` equal those of ``score`` closely enough to be used in their place.
    keyed_streams: tokens depend on (seed, item, slot, position) only, not on what else is in the batch.
    guides, proposes: it draws from several views at once, and returns the likeliest next tokens (``guides.py``).
    arms: its reward models; any other reader is refused.
    images: messages may hold images.
    """

    max_context: int
    eos: frozenset[int]
    turn_end: int
    sampler_logprobs: bool
    keyed_streams: bool
    guides: bool = False
    proposes: bool = False
    arms: tuple[KnownArm, ...] = ()
    images: bool = False


@runtime_checkable
class Engine(Protocol):
    """A model that can sample and score. Safe to call from many tasks at once; it batches their requests.

    Token ids in, token ids out. The laws that every engine obeys are executable: ``preftilt.testing.laws``.
    """

    @property
    def name(self) -> str:
        """The kind of engine and its model, e.g. ``transformers:demo``."""
        ...

    @property
    def model(self) -> str:
        """The model's id or path, as given."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Its abilities."""
        ...

    @property
    def tokenizer(self) -> ChatTokenizer:
        """Its chat template and vocabulary."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that compute, for the record."""
        ...

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """One list of completions a request, one completion a slot, in the order of its slots."""
        ...

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """One array of log-probs a request: nats, temperature 1, unfiltered, float64."""
        ...

    def close(self) -> None:
        """Free threads and memory; running calls fail with :class:`~preftilt.errors.EngineError`."""
        ...


@runtime_checkable
class ReportsProgress(Protocol):
    """An optional ability of an :class:`Engine`: the progress of running requests.

    It is for display only. The driver polls, rather than being called back, so that decoding does no work for it. For
    engines without it (most servers) progress shows as calls end.
    """

    def progress(self, request: object) -> int:
        """Tokens drawn or scored so far for this request object (by identity); 0 if it is not running.

        Called about ten times a second from the caller's event loop: it must return at once.
        """
        ...


@runtime_checkable
class Pingable(Protocol):
    """An optional ability of an :class:`Engine` whose model runs elsewhere: a health check."""

    async def ping(self) -> None:
        """Send the cheapest request there is, one that is not queued behind others.

        Raises :class:`~preftilt.errors.EngineError` if there is no answer, or another model answers.
        """
        ...
