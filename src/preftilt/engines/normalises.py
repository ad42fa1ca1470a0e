"""Optional ability of an :class:`~preftilt.engines.base.Engine`: log-probs of given tokens under guided decoding.

Guided decoding draws from log π(v) = Σ_k w_k log π(v | view k) − log Z, and log Z is a sum over the vocabulary at every
position. It cannot be computed from log-probs of the given tokens alone; an engine that has the logits can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.guides import GuidedView, GuideRequest, check_guide
from preftilt.errors import BadInput
from preftilt.types import Mask, Sampling, Stream


@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixing of views into one distribution, as in :class:`~preftilt.engines.guides.GuideRequest`: weights [K]."""

    weights: tuple[float, ...]
    mask: Mask | None = None
    preferred: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseRequest:
    """One completion, scored under K views (``reads``), and R mixtures of them."""

    reads: tuple[ScoreRequest, ...]
    mixtures: tuple[Mixture, ...]


@runtime_checkable
class Normalises(Protocol):
    """An engine that computes log-probs of given tokens under guided decoding."""

    async def normalise(
        self, requests: Sequence[NormaliseRequest]
    ) -> list[Float[np.ndarray, "R T"]]:
        """log π of every token under every mixture (nats, temperature 1, normalised); −inf outside a mask."""
        ...


def can_normalise(engine: object) -> TypeGuard[Normalises]:
    """Whether ``engine`` computes log-probs under guided decoding."""
    return isinstance(engine, Engine) and isinstance(engine, Normalises)


def check_normalise(request: NormaliseRequest) -> None:
    """Refuse a request without views, with several completions, or with invalid mixtures.

    Raises :class:`~preftilt.errors.BadInput`.
    """
    if not request.reads or len({read.completion for read in request.reads}) > 1:
        raise BadInput("one completion is normalised at a time, read under at least one view")
    prompts = [read.prompt for read in request.reads]
    for mixture in request.mixtures:
        if len(mixture.weights) != len(prompts):
            raise BadInput(f"{len(mixture.weights)} weights are given for {len(prompts)} views")
        check_guide(
            GuideRequest(
                views=tuple(map(GuidedView, prompts, mixture.weights)),
                slots=(),
                stream=Stream(0),
                sampling=Sampling(),
                max_tokens=0,
                mask=mixture.mask,
                preferred=mixture.preferred,
            )
        )
