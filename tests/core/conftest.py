"""A toy query: two prompts, two models, every number within reach."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from preftilt.engines.base import Engine
from preftilt.reward import Reward
from preftilt.run import Run
from preftilt.search import Search
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from preftilt.types import Outcome, Query, Sampling, Stream, Tokens, View

QUESTION: Tokens = (3, 1, 4, 1, 2)
FULL: Tokens = (2, 7, 1, 8, 2)


def toy_query(lam: float = 20.0, prompt: Tokens = FULL) -> Query:
    views = (View("question", QUESTION, 1 - lam), View("full", FULL, lam))
    return Query(prompt=prompt, views=views, lam=lam, ratios=(1.0,))


def toy_run(engine: Engine, *, lam: float = 20.0, item: str = "", **changes: Any) -> Run:
    defaults: dict[str, Any] = {
        "engine": engine,
        "query": toy_query(lam),
        "sampling": Sampling(),
        "reward": Reward(),
        "stream": Stream(0, item),
        "max_tokens": 24,
    }
    return Run(**(defaults | changes))


@pytest.fixture
def engine() -> ToyEngine:
    return ToyEngine(hashed_bigrams(seed=5))


@pytest.fixture
def search_toy(engine: ToyEngine) -> Callable[..., Outcome]:
    """Run a search on the toy engine and wait for its outcome."""

    def search(search: Search, **changes: Any) -> Outcome:
        return asyncio.run(toy_run(engine, **changes).search(search))

    return search
