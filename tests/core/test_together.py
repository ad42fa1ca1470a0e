"""When one part of a request fails, the others stop spending."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass

import pytest

from preftilt.engines.waiting import together
from preftilt.errors import EngineError
from preftilt.search import BestOfN
from preftilt.testing.toy import ToyEngine
from tests.core.conftest import FULL, toy_run


@dataclass(slots=True)
class FailsUnderOneView(ToyEngine):
    """Scores the full view with an error, and the other one for ever."""

    cancelled: int = 0

    async def score(self, requests):
        if requests[0].prompt == FULL:
            await asyncio.sleep(0)
            raise EngineError("out of memory")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError


async def test_a_view_that_fails_ends_the_scoring_of_the_others(engine):
    failing = FailsUnderOneView(engine.next_logprobs, sampler_logprobs=False)
    async with asyncio.timeout(10):
        with pytest.raises(EngineError, match="out of memory"):
            await toy_run(failing).search(BestOfN(n=2))
    assert failing.cancelled == 1


async def test_futures_of_another_thread_are_cancelled_with_the_first_failure():
    """As the embedded engines' threads see it: they drop jobs whose futures are cancelled."""
    futures: list[Future[int]] = [Future() for _ in range(3)]
    waiting = asyncio.ensure_future(together(asyncio.wrap_future(future) for future in futures))
    await asyncio.sleep(0)
    futures[1].set_exception(EngineError("out of memory"))
    with pytest.raises(EngineError, match="out of memory"):
        await waiting
    assert futures[0].cancelled()
    assert futures[2].cancelled()


async def test_results_come_in_the_order_of_the_work():
    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    assert await together(after(turns) for turns in (3, 1, 2)) == [3, 1, 2]
