"""Several servers that draw and one engine that scores for all of them, as a user names them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from preftilt.api import Realigner, Settings
from preftilt.engines import scored_by
from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.replicas.engine import rank_replicas
from preftilt.engines.scored_by import ScoredBy
from preftilt.errors import EngineError
from preftilt.messages import Message
from preftilt.result import Realigned
from preftilt.search import BestOfN
from preftilt.types import Preference
from tests.engine.models import byte_tokenizer
from tests.engine_http.conftest import Running
from tests.engine_http.stand_in import StandIn, served
from tests.server.serving import ask, serving

SETTINGS = Settings(search=BestOfN(n=2), max_tokens=8, lam=3.0)
QUESTIONS = [f"Question number {i}?" for i in range(8)]
CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Counted:
    """How often a scorer was opened, and which of them were closed."""

    engines: list[Engine] = field(default_factory=list)
    closed: list[Engine] = field(default_factory=list)


@dataclass(slots=True)
class Mortal:
    """A server that a test can end."""

    running: Running
    end: Callable[[], None]


@pytest.fixture
def doomed() -> Iterator[Mortal]:
    app = StandIn(byte_tokenizer())
    app.manners.completions, app.manners.chats = False, True
    context = served(app)
    ended: list[bool] = []

    def end() -> None:
        if not ended:
            ended.append(True)
            context.__exit__(None, None, None)

    yield Mortal(Running(app, context.__enter__()), end)
    end()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Watches the real scorer be opened and closed."""
    seen, real = Counted(), scored_by.open_scorer

    def open_scorer(name: str, options: EngineOptions) -> Engine:
        engine = real(name, options)
        close: Any = engine.close
        monkeypatch.setattr(
            type(engine), "close", lambda one: (seen.closed.append(one), close())[1]
        )
        seen.engines.append(engine)
        return engine

    monkeypatch.setattr(scored_by, "open_scorer", open_scorer)
    return seen


@pytest.fixture
def pair(
    server: Running, doomed: Mortal, counted: Counted, scorer_folder: str
) -> Iterator[ScoredBy]:
    server.manners.completions, server.manners.chats = False, True
    spec = f"openai+{server.url},{doomed.running.url}"
    engine = open_engine(spec, EngineOptions(scorer=scorer_folder))
    assert isinstance(engine, ScoredBy)
    server.seen.bodies.clear()
    doomed.running.seen.bodies.clear()
    yield engine
    if not counted.closed:
        engine.close()


async def test_conversations_are_shared_out_and_scored_by_the_one_scorer(
    pair: ScoredBy, server: Running, doomed: Mortal, counted: Counted
):
    found = await _all(pair)
    for one in found:
        [request] = [
            ScoreRequest(prompt=one.prompts["question"], completion=one.candidates[0].tokens)
        ]
        [alone] = await counted.engines[0].score([request])
        np.testing.assert_allclose(one.candidates[0].logprobs["question"], alone, atol=1e-5)
    names = [replica.name for replica in pair.replica_statuses]
    asked: dict[str, set[str]] = {name: set() for name in names}
    for answer, question in zip(found, QUESTIONS, strict=True):
        [first, _] = rank_replicas([*answer.prompts.values()][1], names)
        asked[first].add(question)
    for name, stand_in in zip(names, (server, doomed.running), strict=True):
        bodies = stand_in.seen.asked(CHAT)
        assert {body["messages"][-1]["content"] for body in bodies} == asked[name]


async def test_the_scorer_is_opened_once_and_closed_once(pair: ScoredBy, counted: Counted):
    assert len(counted.engines) == 1
    assert [fact.answer for fact in pair.info.facts[:2]] == ["answers", "answers"]
    assert pair.name.endswith(f" scored by {counted.engines[0].name}")
    pair.close()
    assert counted.closed == counted.engines


async def test_a_dead_server_s_conversations_are_answered_by_the_other_one(
    pair: ScoredBy, server: Running, doomed: Mortal, counted: Counted
):
    before = await _all(pair)
    doomed.end()
    after = await _all(pair)
    assert [one.text for one in after] == [one.text for one in before]
    async with asyncio.timeout(20):
        while [status.up for status in pair.replica_statuses] != [True, False]:
            await asyncio.sleep(0.01)
    assert not counted.closed
    server.manners.models = ("other",)
    with pytest.raises(EngineError, match="no longer serves toy"):
        await pair.inner._replicas[0].engine.ping()  # type: ignore[attr-defined]


def test_our_server_tells_how_they_do(pair: ScoredBy, server: Running, doomed: Mortal):
    with serving(pair) as ours:
        names = [f"openai+{one.url}" for one in (server, doomed.running)]
        assert [ours.metric(f'preftilt_replica_up{{replica="{one}"}}') for one in names] == [1, 1]
        doomed.end()
        server.manners.models = ()
        server.manners.reset = True
        end = time.monotonic() + 20
        with ours.http as http:
            while http.get("/ready").status_code != 503:
                ask(ours)
                assert time.monotonic() < end, "it stayed ready"
            assert http.get("/ready").json() == {"status": "no replica answers"}


async def _all(engine: Engine) -> list[Realigned]:
    realigner = Realigner(engine, SETTINGS)
    return await asyncio.gather(
        *(realigner.realign([Message("user", one)], [Preference("No games.")]) for one in QUESTIONS)
    )
