"""The contract of an engine as a test class: inherit from it, and every law is a test of your engine.

It is for tests alone, since it needs pytest, and pytest-asyncio to run coroutines.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from preftilt.engines.base import Engine
from preftilt.testing import laws
from preftilt.types import Tokens


class EngineLaws:
    """A test for every law. What inherits from it has a fixture ``engine``, best opened once a class::

        class TestMine(EngineLaws):
            @pytest.fixture(scope="class")
            @classmethod
            def engine(cls):
                engine = open_mine("small-model", EngineOptions())
                yield engine
                engine.close()

    It may override the fixtures ``prompts`` (two different ones) and ``tolerance`` (nats). A law about what the
    engine does not claim is skipped, and says so.
    """

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def prompts(self, engine: Engine) -> Sequence[Tokens]:
        return laws.default_prompts(engine)

    @pytest.fixture
    def tolerance(self) -> float:
        return laws.TOLERANCE

    async def test_one_logprob_per_token(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.one_logprob_per_token, engine, prompts, tolerance)

    async def test_scores_add_up_over_a_split(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.scores_add_up_over_a_split, engine, prompts, tolerance)

    async def test_scoring_is_batch_invariant(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.scoring_is_batch_invariant, engine, prompts, tolerance)

    async def test_the_given_token_is_scored(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.the_given_token_is_scored, engine, prompts, tolerance)

    async def test_sampler_logprobs_equal_scores(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.sampler_logprobs_equal_scores, engine, prompts, tolerance)

    async def test_sampling_is_batch_invariant(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.sampling_is_batch_invariant, engine, prompts, tolerance)

    async def test_chunked_sampling_equals_one_call(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.chunked_sampling_equals_one_call, engine, prompts, tolerance)

    async def test_streaming_equals_sampling(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.streaming_equals_sampling, engine, prompts, tolerance)

    async def test_logprobs_can_be_left_out(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.logprobs_can_be_left_out, engine, prompts, tolerance)

    async def test_finish_reasons_are_true(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.finish_reasons_are_true, engine, prompts, tolerance)

    async def test_empty_completions_score_empty(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.empty_completions_score_empty, engine, prompts, tolerance)

    async def test_overlong_prompts_are_refused(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.overlong_prompts_are_refused, engine, prompts, tolerance)

    async def test_cancelling_leaves_the_engine_usable(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.cancelling_leaves_the_engine_usable, engine, prompts, tolerance)

    async def test_adapters_do_not_leak(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.adapters_do_not_leak, engine, prompts, tolerance)

    async def test_what_is_not_claimed_is_refused(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        await _check(laws.what_is_not_claimed_is_refused, engine, prompts, tolerance)


async def _check(
    law: laws.Law, engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    ability = laws.unclaimed(engine, law)
    if ability is not None:
        pytest.skip(f"{engine.name} does not claim {ability}")
    await law(engine, prompts, tolerance)
