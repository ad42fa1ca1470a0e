"""The laws of the engine contract, on every architecture and path."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from preftilt.engines.base import Engine, SampleRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import open_transformers
from preftilt.errors import EngineError
from preftilt.testing.contract import EngineLaws
from preftilt.testing.laws import LAWS, check_laws, default_prompts
from preftilt.testing.toy import ToyEngine
from preftilt.types import Sampling, Stream
from tests.engine.conftest import Opened
from tests.engine.models import END_ID, save

pytestmark = pytest.mark.model

ARCHITECTURES = ("llama", "qwen2", "gpt2", "mistral", "gemma2")


class TestSharedPrompts(EngineLaws):
    @pytest.fixture(scope="class", params=ARCHITECTURES)
    @classmethod
    def engine(cls, request: pytest.FixtureRequest, opened_for_class: Opened) -> Engine:
        engine = opened_for_class(request.param)
        assert engine.path == "shared prefix"
        return engine


class TestExpandedPath(EngineLaws):
    @pytest.fixture(scope="class", params=["qwen2", "gpt2", "bloom"])
    @classmethod
    def engine(cls, request: pytest.FixtureRequest, opened_for_class: Opened) -> Engine:
        engine = opened_for_class(request.param, attention="expanded")
        assert engine.path == "expanded"
        return engine


class TestLittleRoom(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, opened_for_class: Opened) -> Engine:
        return opened_for_class(
            "qwen2", max_rows=2, prefill_tokens=8, score_tokens=8, cache_bytes=20_000
        )


class TestBundledModel(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[Engine]:
        engine = open_engine("demo")
        assert engine.versions["attention"] == "shared prefix"
        yield engine
        engine.close()


class TestBfloat16(EngineLaws):
    """By what the engine claims there, which leaves out exact log-probs."""

    @pytest.fixture(scope="class", params=["auto", "expanded"])
    @classmethod
    def engine(cls, request: pytest.FixtureRequest, opened_for_class: Opened) -> Engine:
        return opened_for_class(
            "llama", dtype="bfloat16", sampler_logprobs="off", attention=request.param
        )

    @pytest.fixture
    def tolerance(self) -> float:
        return 0.5


class TestToy(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        return ToyEngine()


def test_every_law_is_a_test_of_the_contract():
    tests = [name for name in vars(EngineLaws) if name.startswith("test_")]
    assert tests == [f"test_{law.__name__}" for law in LAWS]


async def test_a_seed_promises_an_answer_where_that_was_measured(opened: Opened, tmp_path: Path):
    assert opened("llama").capabilities.keyed_streams
    wide = save(tmp_path / "wide", "llama", hidden_size=512, intermediate_size=512)
    rounded = open_transformers(wide, EngineOptions(dtype="bfloat16"))
    try:
        prompt = default_prompts(rounded)[0]
        requests = [
            SampleRequest(
                prompt=prompt,
                slots=(slot,),
                stream=Stream(7),
                sampling=Sampling(),
                max_tokens=12,
            )
            for slot in range(12)
        ]
        crowd = await rounded.sample(requests)
        alone = [(await rounded.sample([request]))[0] for request in requests]
        same = [one[0].tokens for one in crowd] == [one[0].tokens for one in alone]
        assert same or not rounded.capabilities.keyed_streams
    finally:
        rounded.close()


async def test_a_broken_engine_is_found_out():
    class Shifted(ToyEngine):
        async def score(self, requests):
            return [scores - 0.1 * (len(requests) > 1) for scores in await super().score(requests)]

    with pytest.raises(EngineError, match="law broken"):
        await check_laws(Shifted())


def test_an_end_token_from_the_template_ends_responses(opened: Opened):
    capabilities = opened("qwen2").capabilities
    assert capabilities.eos == {END_ID}
    assert capabilities.turn_end == END_ID
