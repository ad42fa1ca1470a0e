"""The laws of the engine contract on llama.cpp itself, for every way to compute that is offered."""

import pytest

from preftilt.engines.base import Engine
from preftilt.engines.llamacpp import LlamaCppTuning
from preftilt.engines.options import EngineOptions
from preftilt.testing.laws import LAWS, check_laws, default_prompts
from tests.llamacpp.conftest import Opens

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_law_holds(law, llamacpp: Engine):
    await law(llamacpp, default_prompts(llamacpp), 1e-4)


def test_what_is_promised_was_measured(opens: Opens):
    exact = opens()
    assert exact.capabilities.keyed_streams
    assert exact.capabilities.sampler_logprobs
    assert exact.capabilities.guides
    assert exact.agreement.batch_gap <= 1e-4
    assert exact.agreement.score_gap <= 1e-4
    assert exact.capabilities.max_context == 2560
    assert exact.capabilities.turn_end in exact.capabilities.eos
    assert exact.versions["attention"] == "plain"
    assert exact.versions["cache"] == "float32"


async def test_all_laws_hold_with_little_room(opens: Opens):
    await check_laws(
        opens("f32", EngineOptions(max_rows=2), LlamaCppTuning(cache_bytes=1, batch=16))
    )


async def test_all_laws_hold_for_quantised_weights(opens: Opens):
    """Activations are rounded to 8 bits; one at the edge of a step moves a log-prob by hundredths of a nat."""
    await check_laws(opens("q8_0", EngineOptions(sampler_logprobs="on")), tolerance=0.05)


def test_quantised_weights_are_promised_nothing_exact(opens: Opens):
    """Gaps are too seldom for a measurement of a few tokens to find one, or to find none."""
    rounded = opens("q8_0")
    assert rounded.agreement.quantised
    assert not rounded.capabilities.keyed_streams
    assert not rounded.capabilities.sampler_logprobs
    assert opens("f16").agreement.quantised is False


async def test_all_laws_that_are_promised_hold_in_16_bits(opens: Opens):
    rounded = opens("f16", EngineOptions(dtype="float16"))
    assert rounded.versions["attention"] == "flash"
    assert rounded.versions["cache"] == "float16"
    await check_laws(rounded, tolerance=0.25)


def test_sampler_logprobs_can_be_switched(opens: Opens):
    off = opens("f32", EngineOptions(sampler_logprobs="off"))
    assert not off.capabilities.sampler_logprobs
