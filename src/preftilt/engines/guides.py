"""Optional abilities of an :class:`~preftilt.engines.base.Engine`: guided decoding, token by token.

:class:`Guides` draws from several views at once; :class:`Proposes` returns the likeliest next tokens, so that the
caller can choose. ``Capabilities`` says which of them an engine has, because wrappers always have both methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, SampleRequest
from preftilt.errors import BadInput
from preftilt.types import Guided, Mask, Reader, Sampling, Step, Stream, StrengthBy, Tokens


@dataclass(frozen=True, slots=True)
class GuidedView:
    """A prompt whose log-probs enter every token's distribution, and its weight.

    ``reader`` as in :class:`~preftilt.engines.base.ScoreRequest`.
    """

    prompt: Tokens
    weight: float
    reader: Reader | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideRequest:
    """Draw one continuation of ``prefix`` for every slot, each token from the weighted log-probs of all views.

    log π(v) = Σ_k w_k log π(v | view k) + const; weights are finite and need not add up to 1. ``strength_by``
    "divergence" takes the first two for 1 − λ and λ, and adapts λ by token (:func:`preftilt.guided.adapted`). ``mask``
    of the preference looks at view number ``preferred``. The mask comes first, then temperature, top-k and top-p. All
    else is as in :class:`~preftilt.engines.base.SampleRequest`.
    """

    views: tuple[GuidedView, ...]
    prefix: Tokens = ()
    slots: tuple[int, ...]
    stream: Stream
    sampling: Sampling
    max_tokens: int
    mask: Mask | None = None
    preferred: int = 0
    strength_by: StrengthBy = "fixed"
    step: Step | None = None
    keep: bool = False


@runtime_checkable
class Guides(Protocol):
    """An engine that can draw from several views."""

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        """One list of completions a request, one a slot; log-probs in the order of the request's views."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeRequest:
    """The ``count`` likeliest tokens after ``prompt + prefix`` (fewer if the vocabulary is smaller)."""

    prompt: Tokens
    prefix: Tokens = ()
    count: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """``tokens`` [k], likeliest first, with their log-probs [k] (nats, temperature 1, unfiltered)."""

    tokens: Tokens
    logprobs: Float[np.ndarray, "k"]


@runtime_checkable
class Proposes(Protocol):
    """An engine that returns the likeliest next tokens; called token by token, it computes only the new ones."""

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        """One proposal a request."""
        ...


def can_guide(engine: object) -> TypeGuard[Guides]:
    """Whether ``engine`` draws from several views; wrappers have the method even if the wrapped engine cannot."""
    return isinstance(engine, Engine) and isinstance(engine, Guides) and engine.capabilities.guides


def can_propose(engine: object) -> TypeGuard[Proposes]:
    """Whether ``engine`` returns the likeliest next tokens."""
    return (
        isinstance(engine, Engine) and isinstance(engine, Proposes) and engine.capabilities.proposes
    )


def check_guide(request: GuideRequest) -> None:
    """Refuse a request with invalid views or weights.

    Raises :class:`~preftilt.errors.BadInput`.
    """
    if not request.views:
        raise BadInput("guided decoding needs at least one view")
    for view in request.views:
        if not np.isfinite(view.weight):
            raise BadInput(f"a view's weight is {view.weight}; give a finite number")
    if not 0 <= request.preferred < len(request.views):
        raise BadInput(f"preferred is {request.preferred}; there are {len(request.views)} views")
    if request.strength_by == "divergence":
        first = [view.weight for view in request.views[:2]]
        if len(first) < 2 or not np.isclose(sum(first), 1.0):
            raise BadInput(
                "a strength by divergence needs two views first, of the weights 1 − λ and λ"
            )


def as_sample(request: GuideRequest, view: GuidedView) -> SampleRequest:
    """The request to sample from ``view`` alone, all else as in ``request``."""
    return SampleRequest(
        prompt=view.prompt,
        prefix=request.prefix,
        slots=request.slots,
        stream=request.stream,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        step=request.step,
        keep=request.keep,
    )
