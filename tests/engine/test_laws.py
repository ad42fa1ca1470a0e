"""The laws of the engine contract, on every architecture and path."""

import pytest

from preftilt.engines.open import open_engine
from preftilt.errors import EngineError
from preftilt.testing.laws import LAWS, check_laws, default_prompts
from preftilt.testing.toy import ToyEngine
from tests.engine.conftest import Opened
from tests.engine.models import END_ID

pytestmark = pytest.mark.model

ARCHITECTURES = ("llama", "qwen2", "gpt2", "mistral", "gemma2")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_law_holds_with_shared_prompts(law, architecture: str, opened: Opened):
    engine = opened(architecture)
    assert engine.about.path == "shared prefix"
    await law(engine, default_prompts(engine), 1e-4)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "bloom"])
async def test_all_laws_hold_on_the_expanded_path(architecture: str, opened: Opened):
    engine = opened(architecture, attention="expanded")
    assert engine.about.path == "expanded"
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


async def test_all_laws_hold_in_bfloat16_as_far_as_rounding_lets_them(opened: Opened):
    engine = opened("llama", dtype="bfloat16", sampler_logprobs="off")
    for law in LAWS:
        if "tokens_ignore" not in law.__name__ and "pieces" not in law.__name__:
            await law(engine, default_prompts(engine), 0.5)


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
