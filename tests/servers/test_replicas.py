"""Two real vLLM servers as one engine, or behind vLLM's own router, and one of them killed while it works."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import numpy as np
import pytest
from tools.servers.launch import Server, start, start_router

from preftilt.api import Realigner, Settings
from preftilt.engines.base import Engine
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.replicas import Replicas
from preftilt.messages import Message
from preftilt.result import Realigned
from preftilt.search import BestOfN
from preftilt.types import Preference

QUESTIONS = [f"How can I make {day} evening more fun?" for day in ("Monday's", "my", "our", "a")]
WISHES = ["I dislike anything that is loud or crowded.", "No games.", "I have no money to spend."]
REQUESTS = [(question, wish) for question in QUESTIONS for wish in WISHES]
SETTINGS = Settings(lam=5.0, search=BestOfN(n=4), max_tokens=48)


@pytest.fixture
def doomed(logs: Path) -> Iterator[Server]:
    server = start("vllm", demo_folder(), logs / "vllm-second.log")
    yield server
    server.stop()


async def test_nothing_is_lost_when_one_of_two_servers_is_killed_at_work(
    vllm_server: Server, vllm_over_http: Engine, doomed: Server
):
    alone = await _all(vllm_over_http)
    pair = _opened(f"vllm+{vllm_server.url},{doomed.url}")
    assert isinstance(pair, Replicas)
    try:
        killed = await _all_while_killed(pair, doomed)
        survivor, dead = pair.replica_statuses
        assert dead.failed >= 1
        assert survivor.failed == 0
        async with asyncio.timeout(60):
            while pair.replica_statuses[1].up:
                await asyncio.sleep(0.05)
    finally:
        pair.close()
    _assert_same(killed, alone)


async def test_nothing_is_lost_behind_a_router_either(
    vllm_server: Server, vllm_over_http: Engine, doomed: Server, logs: Path
):
    """vllm-router asks the other server again; the seeds are those of the request."""
    alone = await _all(vllm_over_http)
    urls = [vllm_server.url, doomed.url]
    router = start_router(urls, logs / "vllm-router.log", policy="round_robin")
    try:
        engine = _opened(f"vllm+{router.url}")
        try:
            _assert_same(await _all_while_killed(engine, doomed), alone)
        finally:
            engine.close()
    finally:
        router.stop()


def _opened(spec: str) -> Engine:
    return open_engine(spec, EngineOptions(tokenizer="demo", timeout=120))


async def _all_while_killed(engine: Engine, doomed: Server) -> list[Realigned]:
    """Answers to all requests, while ``doomed`` is killed as soon as it works on some of them."""
    work = asyncio.ensure_future(_all(engine))
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(_is_busy, doomed):
            assert not work.done()
    os.killpg(doomed.process.pid, signal.SIGKILL)
    return await work


def _is_busy(server: Server) -> bool:
    shown = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    running = [line for line in shown.splitlines() if line.startswith("vllm:num_requests_running")]
    return any(float(line.rsplit(" ", 1)[1]) for line in running)


def _assert_same(killed: Sequence[Realigned], alone: Sequence[Realigned]) -> None:
    for expected, answer in zip(alone, killed, strict=True):
        assert answer.text == expected.text
        assert [c.tokens for c in answer.candidates] == [c.tokens for c in expected.candidates]
        for a, b in zip(expected.candidates, answer.candidates, strict=True):
            for view, row in a.logprobs.items():
                np.testing.assert_allclose(b.logprobs[view], row, atol=1e-3)


async def _all(engine: Engine) -> list[Realigned]:
    realigner = Realigner(engine, SETTINGS)
    return await asyncio.gather(
        *(
            realigner.realign([Message("user", question)], [Preference(wish)])
            for question, wish in REQUESTS
        )
    )
