"""Per-token REAR is classifier-free guidance: transformers' own CFG is the oracle.

With answers of one token, the REAR scores over the vocabulary are the logits of the guided policy
q + λ (p − q). So the best-scored token at every position is the one that ``generate(guidance_scale=λ)`` takes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.reward import Reward, scores
from preftilt.types import Candidate, Query, Tokens, View

VOCABULARY = 40
FULL: Tokens = (5, 6, 7, 8, 9)
QUESTION: Tokens = (9, 7, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with a word-level vocabulary of 40."""
    path = tmp_path_factory.mktemp("random-qwen2")
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.6,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    words = {"<end>": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(path)
    return path


async def rear_scores(engine: Engine, prefix: Tokens, lam: float) -> np.ndarray:
    """S of every one-token continuation of ``prefix``, by the product's own scoring."""
    views = (View("question", QUESTION, 1 - lam), View("full", FULL, lam))
    query = Query(prompt=FULL, views=views, lam=lam, ratios=(1.0,))
    requests = [
        ScoreRequest(prompt=view.prompt, prefix=prefix, completion=(token,))
        for view in views
        for token in range(VOCABULARY)
    ]
    logprobs = np.array(await engine.score(requests)).reshape(2, VOCABULARY)
    pool = [
        Candidate((token,), logprobs[:, token : token + 1], "length") for token in range(VOCABULARY)
    ]
    return np.array(scores(pool, query, Reward()))


@pytest.mark.model
@pytest.mark.parametrize("lam", [1.0, 3.0, 7.5])
def test_the_best_scored_token_is_the_one_classifier_free_guidance_takes(folder, lam):
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    guided = reference.generate(
        torch.tensor([FULL]),
        attention_mask=torch.ones(1, len(FULL), dtype=torch.long),
        guidance_scale=lam,
        negative_prompt_ids=torch.tensor([QUESTION]),
        do_sample=False,
        max_new_tokens=8,
    )[0, len(FULL) :].tolist()
    engine = open_engine(str(folder), EngineOptions(chat_template="plain"))
    try:
        for t, token in enumerate(guided):
            values = asyncio.run(rear_scores(engine, tuple(guided[:t]), lam))
            assert int(values.argmax()) == token
    finally:
        engine.close()


@pytest.mark.model
def test_the_scores_of_one_token_answers_are_the_guided_distribution_s_logits(folder):
    lam = 4.0
    engine = open_engine(str(folder), EngineOptions(chat_template="plain"))
    try:
        values = asyncio.run(rear_scores(engine, (3, 1), lam))
    finally:
        engine.close()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        p, q = (
            model(torch.tensor([[*view, 3, 1]])).logits[0, -1].double().log_softmax(-1)
            for view in (FULL, QUESTION)
        )
    expected = torch.softmax(q + lam * (p - q), -1).numpy()
    np.testing.assert_allclose(np.exp(values) / np.exp(values).sum(), expected, atol=1e-5)
