"""The remembering engine gives the same answers for less work."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from preftilt.engines.base import ScoreRequest
from preftilt.engines.memo import MemoEngine
from preftilt.errors import EngineError
from preftilt.search import DVTS, BestOfN
from preftilt.testing.contract import EngineLaws
from preftilt.testing.toy import ToyEngine
from tests.core.conftest import toy_query, toy_run


class TestMemo(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> MemoEngine:
        return MemoEngine(ToyEngine())


def test_a_sweep_over_lambda_shares_what_its_searches_agree_on(engine):
    async def sweep(used) -> list:
        runs = [
            toy_run(used, query=toy_query(lam)).search(DVTS(subtrees=2, width=3))
            for lam in (1.0, 3.0, 5.0)
        ]
        return [outcome.ranked[0].tokens for outcome in await asyncio.gather(*runs)]

    plain = ToyEngine(engine.next_logprobs)
    assert asyncio.run(sweep(MemoEngine(engine))) == asyncio.run(sweep(plain))
    assert engine.counts["sampled"] < 0.8 * plain.counts["sampled"]
    assert engine.counts["scored"] < plain.counts["scored"]


def test_overlapping_slots_are_drawn_once(engine):
    memo = MemoEngine(engine)

    async def both():
        small = await toy_run(memo).search(BestOfN(n=4))
        drawn = engine.counts["sampled"]
        large = await toy_run(memo).search(BestOfN(n=8))
        return small, drawn, large

    small, drawn, large = asyncio.run(both())
    assert drawn == sum(len(candidate.tokens) for candidate in small.ranked)
    assert engine.counts["sampled"] == sum(len(candidate.tokens) for candidate in large.ranked)


def test_a_failure_reaches_its_callers_and_is_not_remembered(engine):
    class Flaky(ToyEngine):
        async def score(self, requests):
            if not self.counts["scored"]:
                self.counts["scored"] = 1
                raise EngineError("once")
            return await ToyEngine.score(self, requests)

    memo = MemoEngine(Flaky(engine.next_logprobs))

    async def twice():
        with pytest.raises(EngineError, match="once"):
            await toy_run(memo).search(BestOfN(n=2))
        return await toy_run(memo).search(BestOfN(n=2))

    assert asyncio.run(twice()).ranked


@dataclass(slots=True)
class Slow(ToyEngine):
    """Scores when it is let; tells how many calls began and how many of them were cancelled."""

    let: asyncio.Event = field(default_factory=asyncio.Event)
    began: int = 0
    cancelled: int = 0

    async def score(self, requests):
        self.began += 1
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await ToyEngine.score(self, requests)


SCORED = ScoreRequest(prompt=(3, 1, 4, 1, 2), completion=(5, 6))
OTHER = ScoreRequest(prompt=(3, 1, 4, 1, 2), completion=(6, 5))


async def test_a_cancelled_caller_takes_nothing_from_others_who_wait_for_the_same(engine):
    slow = Slow(engine.next_logprobs)
    memo = MemoEngine(slow)
    first = asyncio.ensure_future(memo.score([SCORED]))
    second = asyncio.ensure_future(memo.score([SCORED, OTHER]))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    slow.let.set()
    [row, other] = await second
    assert len(row) == len(other) == 2
    assert (slow.began, slow.cancelled) == (2, 0)


async def test_what_nobody_waits_for_any_more_is_ended_and_can_be_asked_for_again(engine):
    slow = Slow(engine.next_logprobs)
    memo = MemoEngine(slow)
    callers = [asyncio.ensure_future(memo.score([SCORED])) for _ in range(3)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert (slow.began, slow.cancelled) == (1, 1)
    slow.let.set()
    [row] = await memo.score([SCORED])
    assert len(row) == 2


async def test_a_caller_who_comes_while_the_last_one_leaves_is_not_cancelled_with_it(engine):
    slow = Slow(engine.next_logprobs)
    memo = MemoEngine(slow)
    leaving = asyncio.ensure_future(memo.score([SCORED]))
    await asyncio.sleep(0)
    leaving.cancel()
    coming = asyncio.ensure_future(memo.score([SCORED]))
    slow.let.set()
    [row] = await coming
    assert len(row) == 2
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_failure_is_every_waiters(engine):
    class Broken(Slow):
        async def score(self, requests):
            self.began += 1
            await asyncio.sleep(0)
            raise EngineError("out of memory")

    broken = Broken(engine.next_logprobs)
    memo = MemoEngine(broken)
    callers = [asyncio.ensure_future(memo.score([SCORED])) for _ in range(3)]
    failures = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["out of memory"] * 3
    assert broken.began == 1
