"""Faults under load: 64 requests at once, and every one is answered or fails for a reason that it states.

The server counts what it begins to draw: nothing is drawn twice, and nothing that could have been known to be in vain.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from preftilt.engines.base import Engine, SampleRequest
from preftilt.engines.http import connection
from preftilt.engines.http import engine as engine_module
from preftilt.engines.http.engine import ServerEngine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import EngineError
from preftilt.types import Sampling, Stream
from tests.engine.models import byte_tokenizer
from tests.engine_http.conftest import Opened, Running
from tests.engine_http.stand_in import StandIn, served

CALLERS = 64
SECONDS = 30.0
"""How long a scenario may take before it counts as hanging, on a machine that does other things, too."""

ERROR = b'{"error": {"message": "out of memory", "type": "server_error"}}'


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the callers, and what it cost the server."""

    answered: int
    failed: Counter[str]
    generations: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """manners: how the server behaves once the engine is open. reason: what every failure says. generations: what it
    begins to draw for all callers together."""

    name: str
    manners: dict[str, Any]
    answered: int
    reason: str
    generations: int


SCENARIOS = (
    Scenario("slow", {"seconds": 0.02}, CALLERS, "", CALLERS),
    Scenario("busy", {"busy_at_first": (503, 429)}, CALLERS, "", CALLERS),
    Scenario("resets", {"reset": True}, 0, "broke off in the middle", CALLERS),
    Scenario("proxy gives up", {"busy_at_first": (502,)}, 0, "answered 502", CALLERS),
    Scenario("broken", {"busy_at_first": (500,)}, 0, "answered 500: busy", CALLERS),
    Scenario("half broken", {"busy": [500] * 32}, 32, "answered 500: busy", CALLERS),
    Scenario("no JSON", {"junk": b"<html>"}, 0, "something else than Completions", CALLERS),
    Scenario("error as 200", {"junk": ERROR}, 0, "with HTTP 200: out of memory", CALLERS),
    Scenario("too few", {"misses": 1}, 0, "1 responses where 2 were asked", CALLERS),
    Scenario("too long", {"exceeds": 3}, 0, "where 4 were allowed", CALLERS),
    Scenario("another model answers", {"model": "other"}, 0, "the model other where", CALLERS),
)


@pytest.fixture(scope="module")
def engine(_running: Running, tokenizer_folder: str) -> Iterator[Engine]:
    """Opened while the server behaves."""
    _running.app.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "CONNECT_SECONDS", 60.0)
        engine = open_engine(f"vllm+{_running.url}", EngineOptions(tokenizer=tokenizer_folder))
    yield engine
    engine.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_every_request_is_answered_or_fails_for_a_stated_reason(
    scenario: Scenario, server: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_module, "RECHECK_SECONDS", float("inf"))
    for key, value in scenario.manners.items():
        setattr(server.manners, key, value)
    tally = await _ask(engine, server.app)
    assert tally.answered == scenario.answered
    assert tally.failed.total() == CALLERS - scenario.answered
    assert [said for said in tally.failed if scenario.reason not in said] == []
    assert tally.generations == scenario.generations


async def test_a_server_that_hangs_is_left_by_all_at_the_deadline(server: Running, opened: Opened):
    engine = opened()
    assert isinstance(engine, ServerEngine)
    object.__setattr__(engine._connection, "timeout", 0.5)  # Which opening it need not keep.
    server.manners.hang = True
    tally = await _ask(engine, server.app)
    assert tally.failed.total() == CALLERS
    assert [said for said in tally.failed if "did not answer within 0.5 s" not in said] == []
    assert tally.generations <= CALLERS
    async with asyncio.timeout(SECONDS):
        while server.seen.abandoned < server.seen.waiting:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("manners", "reason"),
    [
        # The list takes a while, so that all have come to wait for it.
        ({"models": ("other",), "models_seconds": 0.5}, "no longer serves toy"),
        ({"weights": 1, "models_seconds": 0.5}, "other weights behind the name toy"),
        ({"models_seconds": 5.0}, "within 0.2 s; is the server still running there?"),
    ],
)
async def test_all_who_wait_for_a_check_of_the_model_share_it_and_its_failure(
    manners: dict[str, Any],
    reason: str,
    server: Running,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(engine_module, "RECHECK_SECONDS", 0.0)
    if manners["models_seconds"] > 1:
        monkeypatch.setattr(connection, "CHECK_SECONDS", 0.2)
    for key, value in manners.items():
        setattr(server.manners, key, value)
    before = server.seen.lists
    tally = await _ask(engine, server.app)
    assert tally.failed.total() == CALLERS
    assert [said for said in tally.failed if reason not in said] == []
    assert tally.generations == 0
    assert server.seen.lists == before + 1


async def test_a_caller_who_leaves_does_not_take_the_check_of_the_model_with_it(
    server: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_module, "RECHECK_SECONDS", 0.0)
    server.manners.models_seconds = 0.3
    before = server.seen.lists
    calls = [asyncio.ensure_future(engine.sample([_request(engine, i)])) for i in range(4)]
    async with asyncio.timeout(SECONDS):
        while server.seen.lists == before:
            await asyncio.sleep(0.01)
        calls[0].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer for answer in answers[1:] if isinstance(answer, BaseException)] == []
    assert [len(drawn[0]) for drawn in answers[1:] if isinstance(drawn, list)] == [2, 2, 2]


def test_an_idle_connection_is_given_up_before_uvicorn_closes_it():
    keep_alive = uvicorn.Config("never:loaded").timeout_keep_alive
    assert keep_alive > connection.KEEPALIVE_SECONDS


@pytest.fixture
def dead(tokenizer_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine on a server that has ended since."""
    monkeypatch.setattr(connection, "BACK_OFF", lambda state: 0.25)
    with served(StandIn(byte_tokenizer())) as url:
        engine = open_engine(f"vllm+{url}", EngineOptions(tokenizer=tokenizer_folder))
    yield engine
    engine.close()


@pytest.mark.parametrize("recheck", [0.0, 30.0])
async def test_nobody_waits_long_for_a_server_that_has_ended(
    recheck: float, dead: Engine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine_module, "RECHECK_SECONDS", recheck)
    monkeypatch.setattr(connection, "UNREACHABLE_SECONDS", 0.5)
    calls = [dead.sample([_request(dead, i)]) for i in range(8)]
    async with asyncio.timeout(6):
        failures = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(failure, EngineError) for failure in failures)
    assert all("cannot be reached" in str(failure) for failure in failures)


def _request(engine: Engine, number: int) -> SampleRequest:
    return SampleRequest(
        prompt=engine.tokenizer.encode("Name a way to relax."),
        slots=(0, 1),
        stream=Stream(number),
        sampling=Sampling(),
        max_tokens=4,
    )


async def _ask(engine: Engine, app: StandIn) -> Tally:
    before = app.seen.generations
    async with asyncio.timeout(SECONDS):
        found = await asyncio.gather(
            *(engine.sample([_request(engine, number)]) for number in range(CALLERS)),
            return_exceptions=True,
        )
    failures = [failure for failure in found if isinstance(failure, BaseException)]
    assert [failure for failure in failures if not isinstance(failure, EngineError)] == []
    return Tally(
        answered=len(found) - len(failures),
        failed=Counter(str(failure) for failure in failures),
        generations=app.seen.generations - before,
    )
