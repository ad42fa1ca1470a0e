"""Guided decoding against plain decoding, and Amulet's closed form against its loop."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from bench.models import Subject
from preftilt.engines.base import GuidedView, GuideRequest, SampleRequest
from preftilt.guided import combine, kappa
from preftilt.testing.amulet import amulet_iterations
from preftilt.types import Query, Sampling, Stream, View

WEIGHTS = (-2.0, 3.0)
"""Those of λ = 3."""

ITERATIONS, ALPHA, ANCHOR, ETA = 60, 2.0, 2.0, 10.0
"""Amulet's published settings."""


def plain(subject: Subject, view: View, rows: int, tokens: int, seed: int) -> None:
    """Sample ``rows`` responses from one view's prompt."""
    request = SampleRequest(
        prompt=view.prompt,
        slots=tuple(range(rows)),
        stream=Stream(seed),
        sampling=Sampling(),
        max_tokens=tokens,
    )
    asyncio.run(subject.engine.sample([request]))


def guided(subject: Subject, query: Query, rows: int, tokens: int, seed: int) -> None:
    """Draw ``rows`` responses from both views of ``query``."""
    views = zip(query.views, WEIGHTS, strict=True)
    request = GuideRequest(
        views=tuple(GuidedView(view.prompt, weight) for view, weight in views),
        slots=tuple(range(rows)),
        stream=Stream(seed),
        sampling=Sampling(),
        max_tokens=tokens,
    )
    asyncio.run(subject.engine.guide([request]))


def amulet(vocabulary: int, tokens: int, seed: int) -> tuple[float, float]:
    """Seconds that so many tokens' distributions take in closed form, and by the game; both in numpy."""
    random = np.random.default_rng(seed)
    logits = random.standard_normal((2, vocabulary))
    logprobs = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    began = time.perf_counter()
    for _ in range(tokens):
        k = kappa(ITERATIONS, alpha=ALPHA, anchor=ANCHOR, eta=ETA)
        combine(logprobs, (-k, 1 + k))
    middle = time.perf_counter()
    for _ in range(tokens):
        amulet_iterations(
            logprobs[1], logprobs[0], iterations=ITERATIONS, alpha=ALPHA, anchor=ANCHOR, eta=ETA
        )
    return middle - began, time.perf_counter() - middle
