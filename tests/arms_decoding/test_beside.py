"""What reward models cost, and those of a smaller model beside a larger one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from preftilt.engines.base import Engine, Mixture, NormaliseRequest, ScoreRequest
from preftilt.guided import combine, pick
from preftilt.streams import position_key, stream_key
from preftilt.testing.contract import EngineLaws
from preftilt.types import Reader, Sampling
from tests.arms_decoding.asking import ANSWER, FIRST, SECOND, ask, beside, guide
from tests.arms_decoding.conftest import Models, Opened, Oracles
from tests.arms_decoding.made import HELPFUL, PARM, SAFER, UNIARM
from tests.engine.asking import draw

pytestmark = pytest.mark.model

TIGHT = {"max_rows": 2, "prefill_tokens": 8, "score_tokens": 8, "cache_bytes": 20_000}


@pytest.mark.parametrize(
    ("readers", "most"),
    [((None, PARM), 2.1), ((None, UNIARM), 2.1), ((None, HELPFUL, SAFER), 3.1)],
)
async def test_a_token_costs_one_row_for_the_base_and_one_for_every_arm(
    readers: tuple[Reader | None, ...], most: float, opened: Opened
):
    engine, length = opened(), 40
    request = ask(readers, (1.0,) * len(readers), max_tokens=length, sampling=Sampling())
    await guide(engine, request)
    engine.stats.reset()
    [drawn] = await guide(engine, request)
    assert engine.stats.response_tokens / len(drawn.tokens) <= most
    assert engine.stats.forwards <= len(drawn.tokens)


async def test_an_arm_that_is_attached_costs_nothing_where_it_does_not_read(opened: Opened):
    with_arms, without = opened(), opened(arms=None)
    drawn = [await draw(engine, FIRST, 3) for engine in (with_arms, without)]
    assert [one.tokens for one in drawn[0]] == [one.tokens for one in drawn[1]]
    # Layers that a reward model reads through are not joined, so the last digit may differ.
    for mine, other in zip(*drawn, strict=True):
        np.testing.assert_allclose(mine.logprobs, other.logprobs, rtol=0, atol=1e-5)
    assert with_arms.stats == without.stats


@pytest.mark.parametrize("attention", ["auto", "expanded"])
async def test_a_smaller_models_arms_guide_a_larger_model(
    attention: str, opened: Opened, oracles: Oracles, models: Models, arms: Any
):
    engine = opened(attention=attention, **beside(models, arms))
    request = ask((None, PARM, HELPFUL), (1.0, 0.8, 0.5), slots=2, sampling=Sampling())
    drawn = await guide(engine, request)
    base, small = oracles("llama"), oracles("small")
    for slot, one in enumerate(drawn):
        key, tokens = stream_key(request.stream, slot), ()
        while len(tokens) < len(one.tokens):
            raw = [base.after(FIRST + tokens, None)]
            raw += [small.after(FIRST + tokens, reader) for reader in (PARM, HELPFUL)]
            mixed = combine(np.stack(raw), (1.0, 0.8, 0.5))
            tokens += (pick(mixed, request.sampling, position_key(key, len(tokens))),)
        assert one.tokens == tokens
    [scored] = await engine.score([ScoreRequest(prompt=SECOND, completion=ANSWER, reader=PARM)])
    np.testing.assert_allclose(scored, small.score(SECOND, ANSWER, PARM), atol=1e-4)


async def test_a_smaller_model_costs_one_more_forward_a_step(
    opened: Opened, models: Models, arms: Any
):
    engine = opened(**beside(models, arms))
    request = ask(max_tokens=20, sampling=Sampling())
    await guide(engine, request)
    engine.stats.reset()
    [drawn] = await guide(engine, request)
    assert engine.stats.forwards == 2 * (len(drawn.tokens) - 1)
    assert engine.stats.response_tokens == 2 * (len(drawn.tokens) - 1)


class TestRewardModels(EngineLaws):
    @pytest.fixture(scope="class", params=["auto", "expanded"])
    @classmethod
    def engine(cls, request: pytest.FixtureRequest, opened_for_class: Opened) -> Engine:
        return opened_for_class(attention=request.param)


class TestSmallerModelsRewardModelsWithLittleRoom(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, opened_for_class: Opened, models: Models, arms: Any) -> Engine:
        return opened_for_class(**beside(models, arms), **TIGHT)


async def test_a_smaller_models_arms_guide_alike_with_little_room(
    opened: Opened, models: Models, arms: Any
):
    engine = opened(**beside(models, arms), **TIGHT)
    request = ask((None, PARM, HELPFUL), (1.0, 0.8, 0.5), slots=3, sampling=Sampling())
    roomy = opened(**beside(models, arms))
    both = [[one.tokens for one in await guide(each, request)] for each in (engine, roomy)]
    assert both[0] == both[1]


@pytest.mark.parametrize("weak", [False, True])
async def test_given_tokens_are_normalised_with_their_readers(
    weak: bool, opened: Opened, oracles: Oracles, models: Models, arms: Any
):
    engine = opened(**beside(models, arms)) if weak else opened()
    other = oracles("small" if weak else "llama")
    request = NormaliseRequest(
        reads=tuple(
            ScoreRequest(prompt=FIRST, completion=ANSWER, reader=reader)
            for reader in (PARM, None, HELPFUL)
        ),
        mixtures=(Mixture((0.5, 1.0, 0.25)), Mixture((0.0, 1.0, 0.0))),
    )
    [found] = await engine.normalise([request])
    for t, token in enumerate(ANSWER):
        context = FIRST + ANSWER[:t]
        raw = np.stack(
            [
                other.after(context, PARM),
                oracles("llama").after(context, None),
                other.after(context, HELPFUL),
            ]
        )
        for row, mixture in enumerate(request.mixtures):
            assert found[row, t] == pytest.approx(combine(raw, mixture.weights)[token], abs=1e-4)
