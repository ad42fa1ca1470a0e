"""The laws of the engine contract on llama.cpp itself, for every way to compute that is offered."""

import pytest

from preftilt.engines.base import Engine
from preftilt.engines.llamacpp import LlamaCppTuning
from preftilt.engines.options import EngineOptions
from preftilt.testing.contract import EngineLaws
from tests.llamacpp.conftest import Opens

pytestmark = pytest.mark.servers


class TestDefaults(EngineLaws):
    @pytest.fixture
    def engine(self, llamacpp: Engine) -> Engine:
        return llamacpp


class TestLittleRoom(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, opens_for_class: Opens) -> Engine:
        tuning = LlamaCppTuning(cache_bytes=1, batch=16)
        return opens_for_class("f32", EngineOptions(max_rows=2), tuning)


class TestQuantisedWeights(EngineLaws):
    """Activations are rounded to 8 bits; one at the edge of a step moves a log-prob by hundredths of a nat."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, opens_for_class: Opens) -> Engine:
        return opens_for_class("q8_0", EngineOptions(sampler_logprobs="on"))

    @pytest.fixture
    def tolerance(self) -> float:
        return 0.05


class TestFloat16(EngineLaws):
    """By what the engine claims there."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, opens_for_class: Opens) -> Engine:
        rounded = opens_for_class("f16", EngineOptions(dtype="float16"))
        assert rounded.versions["attention"] == "flash"
        assert rounded.versions["cache"] == "float16"
        return rounded

    @pytest.fixture
    def tolerance(self) -> float:
        return 0.25


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


def test_quantised_weights_are_promised_nothing_exact(opens: Opens):
    """Gaps are too seldom for a measurement of a few tokens to find one, or to find none."""
    rounded = opens("q8_0")
    assert rounded.agreement.quantised
    assert not rounded.capabilities.keyed_streams
    assert not rounded.capabilities.sampler_logprobs
    assert opens("f16").agreement.quantised is False


def test_sampler_logprobs_can_be_switched(opens: Opens):
    off = opens("f32", EngineOptions(sampler_logprobs="off"))
    assert not off.capabilities.sampler_logprobs
