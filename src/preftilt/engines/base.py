"""The engine contract: sample continuations, score given ones; token ids in, token ids out.

Both calls are lists in, lists out, in order. No cache handle crosses the interface: token ids are the handle, and
an engine that keeps key/value caches finds them by the ids. The laws an engine must obey are executable:
``preftilt.testing.laws``.
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
    """Draw one continuation of ``prompt + prefix`` for every slot.

    ``prefix`` is the part of the response that exists already; the first new token stands at position
    ``len(prefix)`` of the stream of its slot, so chunked and one-shot drawing give the same tokens.
    ``keep`` says that the caller expects to continue or score these continuations further: a hint to hold their
    caches, never a promise. ``logprobs`` says whether the caller reads the completions' log-probs: where it does not,
    an engine may save itself the work and give zeros; tokens are the same.
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

    ``reader`` is one of the engine's reward models in place of its base model.
    """

    prompt: Tokens
    prefix: Tokens = ()
    completion: Tokens
    keep: bool = False
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class KnownArm:
    """An autoregressive reward model (ARM) that an engine has open.

    name: what a :class:`~preftilt.types.Reader` calls it. objectives: what its preference vector weighs, in order.
    method: how it was made, e.g. ``genarm``.
    """

    name: str
    objectives: tuple[Objective, ...]
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do, established when it is opened.

    max_context: tokens of prompt and response together.
    eos: ids that end a response.
    turn_end: the one of them that the model's chat template ends an answer with; given responses are closed with it.
    sampler_logprobs: the log-probs of ``sample`` equal those of ``score`` closely enough to stand in for them.
    keyed_streams: tokens depend on (seed, item, slot, position) only, not on what else is in the batch.
    guides, proposes: it draws from several views at once, and tells its likeliest next tokens (``guides.py``).
    arms: the reward models that can read a view; a reader that is none of them is refused.
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
    """A model that can sample and score. Safe to call from many tasks at once; it batches what it is given."""

    @property
    def name(self) -> str:
        """What the engine is and which model it holds, e.g. ``transformers:demo``."""
        ...

    @property
    def model(self) -> str:
        """The model's id or path, as given."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def tokenizer(self) -> ChatTokenizer:
        """Its chat template and vocabulary."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that made the numbers, for the record."""
        ...

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """One list of completions a request, one completion a slot, in the order of its slots."""
        ...

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """One array of log-probs a request: nats, temperature 1, unfiltered, float64."""
        ...

    def close(self) -> None:
        """Give back threads and memory; calls under way fail with :class:`~preftilt.errors.EngineError`."""
        ...


@runtime_checkable
class ReportsProgress(Protocol):
    """What an engine may offer besides :class:`Engine`: how far requests under way have come.

    It is for showing progress and counts for nothing. The driver asks, rather than being called, so that decoding does
    no work for it and an engine that cannot say (most servers) is left as it is: its progress shows as calls end.
    """

    def progress(self, request: object) -> int:
        """Tokens drawn or scored for this very object, which a call is under way for; 0 if nothing is known of it.

        Asked about ten times a second from the caller's event loop: it must return at once.
        """
        ...


@runtime_checkable
class Pingable(Protocol):
    """What an engine may offer besides :class:`Engine` where its model runs elsewhere: whether it is still there."""

    async def ping(self) -> None:
        """Ask the cheapest question there is, one that waits behind no work.

        Raises :class:`~preftilt.errors.EngineError` if there is no answer, or if it is that of another model.
        """
        ...
