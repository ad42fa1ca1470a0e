"""Short ways to ask an engine in tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.types import Completion, Sampling, Step, Stream, Tokens
from tests.engine.models import VOCABULARY


def prompt(length: int, seed: int = 0) -> Tokens:
    """Random readable tokens."""
    chosen = random.Random(seed)
    return tuple(chosen.randrange(VOCABULARY - 1) for _ in range(length))


def request(
    of: Tokens,
    slots: int | Sequence[int] = 1,
    max_tokens: int = 12,
    *,
    prefix: Tokens = (),
    sampling: Sampling | None = None,
    step: Step | None = None,
    keep: bool = False,
    item: str = "",
) -> SampleRequest:
    return SampleRequest(
        prompt=of,
        prefix=prefix,
        slots=tuple(range(slots)) if isinstance(slots, int) else tuple(slots),
        stream=Stream(3, item),
        sampling=sampling or Sampling(),
        max_tokens=max_tokens,
        step=step,
        keep=keep,
    )


async def draw(
    engine: Engine, of: Tokens, slots: int | Sequence[int] = 1, max_tokens: int = 12, **more
) -> list[Completion]:
    [drawn] = await engine.sample([request(of, slots, max_tokens, **more)])
    return drawn


async def score(
    engine: Engine, of: Tokens, *completions: Tokens, prefix: Tokens = (), keep: bool = False
) -> list[np.ndarray]:
    return await engine.score(
        [ScoreRequest(prompt=of, prefix=prefix, completion=one, keep=keep) for one in completions]
    )


def tokens(drawn: Sequence[Completion]) -> list[Tokens]:
    return [one.tokens for one in drawn]
