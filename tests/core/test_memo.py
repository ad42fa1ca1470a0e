"""The remembering engine gives the same answers for less work."""

from __future__ import annotations

import asyncio

import pytest

from preftilt.engines.memo import MemoEngine
from preftilt.errors import EngineError
from preftilt.search import DVTS, BestOfN
from preftilt.testing.toy import ToyEngine
from tests.core.conftest import toy_query, toy_run


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
    assert drawn == sum(len(one.tokens) for one in small.ranked)
    assert engine.counts["sampled"] == sum(len(one.tokens) for one in large.ranked)


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
