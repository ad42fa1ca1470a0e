"""Log-probs equal those of plain transformers forwards, however the work is laid out."""

import asyncio
import random

import numpy as np
import pytest
import torch

from preftilt.engines.base import ScoreRequest
from preftilt.engines.transformers import TransformersEngine
from preftilt.types import Tokens
from tests.engine.asking import draw, prompt, score
from tests.engine.conftest import Opened, Oracle
from tests.engine.test_laws import ARCHITECTURES

pytestmark = pytest.mark.model


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "bloom"])
@pytest.mark.parametrize("length", [1, 5, 60])
async def test_scores_and_sampled_logprobs_equal_plain_forwards(
    architecture: str, length: int, opened: Opened, oracle: Oracle
):
    engine, question = opened(architecture), prompt(length)
    drawn = await draw(engine, question, 4, 20)
    scores = await score(engine, question, *(one.tokens for one in drawn))
    for one, scored in zip(drawn, scores, strict=True):
        expected = oracle(architecture, question, one.tokens)
        np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_rows": 3, "prefill_tokens": 16, "score_tokens": 20},
        {"cache_bytes": 100_000},
        {"row_bytes": 20_000},
        {"attention": "expanded"},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["qwen2", "mistral"])
async def test_a_crowd_of_random_requests_equals_plain_forwards(
    architecture: str, options: dict, opened: Opened, oracle: Oracle
):
    """Trees of kept and unkept steps over prompts of all lengths, arriving while others are under way."""
    engine = opened(architecture, **options)
    roots = [prompt(length, seed) for seed, length in enumerate((1, 7, 33, 60))]
    roots.append(roots[2] + roots[1])
    gaps = await asyncio.gather(*(_walk(engine, roots, architecture, oracle, i) for i in range(12)))
    assert max(gaps) < 1e-4


async def _walk(
    engine: TransformersEngine, roots: list[Tokens], architecture: str, oracle: Oracle, number: int
) -> float:
    """Draw, score under two prompts, go on from a random child; the widest gap to the oracle."""
    chance, worst = random.Random(number), 0.0
    await asyncio.sleep(chance.random() * 0.05)
    root, other, prefix = chance.choice(roots), chance.choice(roots), ()
    for _ in range(chance.randrange(1, 4)):
        children = await draw(
            engine, root, chance.choice([1, 2, 5]), chance.randrange(1, 15), prefix=prefix,
            keep=chance.random() < 0.6, item=str(number),
        )  # fmt: skip
        for view in (root, other):
            requests = [
                ScoreRequest(
                    prompt=view, prefix=prefix, completion=child.tokens, keep=chance.random() < 0.5
                )
                for child in children
            ]
            for child, scored in zip(children, await engine.score(requests), strict=True):
                expected = oracle(architecture, view + prefix, child.tokens)
                worst = max(worst, float(np.abs(scored - expected).max()))
                if view is root:
                    worst = max(worst, float(np.abs(child.logprobs - expected).max()))
        prefix += chance.choice(children).tokens
    return worst


async def test_a_long_prompt_in_chunks_equals_one_forward(opened: Opened, oracle: Oracle):
    question = prompt(150)
    engine = opened("llama", prefill_tokens=32)
    [scored] = await score(engine, question, prompt(5, 1))
    np.testing.assert_allclose(scored, oracle("llama", question, prompt(5, 1)), rtol=0, atol=1e-4)
    assert engine.stats.prompt_tokens == 150
    assert engine.stats.forwards == 5 + 1


async def test_a_prompt_that_begins_like_another_takes_over_its_cache(
    opened: Opened, oracle: Oracle
):
    engine, question = opened("mistral"), prompt(60)
    await score(engine, question, (1,))
    longer = question[:40] + prompt(10, 5)
    [scored] = await score(engine, longer, (1, 2, 3))
    np.testing.assert_allclose(scored, oracle("mistral", longer, (1, 2, 3)), rtol=0, atol=1e-4)
    assert engine.stats.shared_tokens == 40
    assert engine.stats.prompt_tokens == 60 + 10


async def test_float16_and_bfloat16_logits_are_taken_in_float32(opened: Opened):
    """Log-probs of a 16-bit model are not multiples of the 16-bit grid: the head runs in float32."""
    engine = opened("llama", dtype="bfloat16")
    [scored] = await score(engine, prompt(20), prompt(30, 1))
    assert scored.dtype == np.float64
    rounded = torch.tensor(scored).to(torch.bfloat16).double().numpy()
    assert np.abs(rounded - scored).max() > 1e-4


async def test_bfloat16_agrees_with_float32_as_well_as_its_weights_do(opened: Opened):
    exact = np.concatenate(await score(opened("llama"), prompt(20), prompt(30, 1)))
    rounded = np.concatenate(
        await score(opened("llama", dtype="bfloat16"), prompt(20), prompt(30, 1))
    )
    assert np.median(np.abs(exact - rounded)) < 0.1
