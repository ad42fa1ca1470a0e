"""The laws of the engine contract, on every architecture and path."""

from pathlib import Path

import pytest

from preftilt.engines.base import SampleRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import open_transformers
from preftilt.errors import EngineError
from preftilt.testing.laws import LAWS, check_laws, default_prompts
from preftilt.testing.toy import ToyEngine
from preftilt.types import Sampling, Stream
from tests.engine.conftest import Opened
from tests.engine.models import END_ID, save

pytestmark = pytest.mark.model

ARCHITECTURES = ("llama", "qwen2", "gpt2", "mistral", "gemma2")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_law_holds_with_shared_prompts(law, architecture: str, opened: Opened):
    engine = opened(architecture)
    assert engine.path == "shared prefix"
    await law(engine, default_prompts(engine), 1e-4)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "bloom"])
async def test_all_laws_hold_on_the_expanded_path(architecture: str, opened: Opened):
    engine = opened(architecture, attention="expanded")
    assert engine.path == "expanded"
    await check_laws(engine)


async def test_all_laws_hold_with_little_room(opened: Opened):
    await check_laws(
        opened("qwen2", max_rows=2, prefill_tokens=8, score_tokens=8, cache_bytes=20_000)
    )


async def test_all_laws_hold_for_the_bundled_model():
    engine = open_engine("demo")
    try:
        await check_laws(engine)
        assert engine.versions["attention"] == "shared prefix"
    finally:
        engine.close()


@pytest.mark.parametrize("attention", ["auto", "expanded"])
async def test_all_laws_hold_in_bfloat16_by_what_the_engine_claims(opened: Opened, attention: str):
    engine = opened("llama", dtype="bfloat16", sampler_logprobs="off", attention=attention)
    await check_laws(engine, tolerance=0.5)


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


async def test_the_toy_engine_obeys_the_same_laws():
    await check_laws(ToyEngine())


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
