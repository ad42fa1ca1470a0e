"""A real model in the user's own vLLM: its guided answers are the embedded engine's, token for token."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from tools.servers.launch import Server, start
from tools.servers.plugin import ROOT, installed

from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.models import SMOLLM2, model_folder
from preftilt.engines.open import open_engine
from tests.servers.test_vllm_plugin import OTHERS, PREFERENCE, QUESTIONS, ask, body, drawn, expected


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Engine]:
    engine = open_engine(SMOLLM2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plugged(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = [str(ROOT / "src"), str(installed(tmp_path_factory.mktemp("installed")))]
    server = start(
        "vllm",
        model_folder(SMOLLM2),
        logs / "vllm-plugin-smollm2.log",
        flags=("--no-enable-chunked-prefill",),
        environment={"VLLM_PLUGINS": "preftilt", "PYTHONPATH": os.pathsep.join(path)},
    )
    yield server
    server.stop()


async def test_a_real_models_guided_answers_are_the_embedded_engines(
    plugged: Server, smollm2: Engine
):
    bodies = [
        body(question, preference=preference)
        for question, preference in zip(QUESTIONS, (PREFERENCE, *OTHERS), strict=True)
    ]
    bodies.append(body(QUESTIONS[0]) | {"guidance_scale": 2, "negative_prompt": OTHERS[1]})
    bodies[-1]["preftilt"] = {"preference": PREFERENCE, "details": True}
    async with httpx2.AsyncClient(base_url=plugged.url, trust_env=False, timeout=900) as client:
        replies = await asyncio.gather(*(ask(client, sent) for sent in bodies))
    for reply in replies:
        record = reply["preftilt"]
        assert drawn(record) == await expected(smollm2, record)
        assert len(record["candidates"][0]["tokens"]) > 8
    assert [view["weight"] for view in replies[-1]["preftilt"]["views"]] == [-1, 2]


async def test_a_tree_is_grown_and_scored_by_the_same_vllm(plugged: Server, smollm2: Engine):
    """DVTS: steps end at line breaks, four branches a step, all of it in the user's server.

    It draws with a seed, which the plugin leaves out where vLLM on a CPU may divide a prompt: here it may not.
    """
    knob = {"preference": PREFERENCE, "lambda": 3, "details": True}
    sent = body() | {"model": "demo:dvts-2x2-l3", "temperature": 1.0, "max_tokens": 64, "seed": 4}
    async with httpx2.AsyncClient(base_url=plugged.url, trust_env=False, timeout=900) as client:
        record = (await ask(client, sent | {"preftilt": knob}))["preftilt"]
    assert record["settings"]["search"]["name"] == "dvts"
    assert [candidate["slot"] // 2 for candidate in record["candidates"]] in ([0, 1], [1, 0])
    weights = {view["name"]: view["weight"] for view in record["views"]}
    assert weights == {"question": -2, "full": 3}
    for candidate in record["candidates"]:
        for view, logprobs in candidate["logprobs"].items():
            prompt, completion = tuple(record["prompts"][view]), tuple(candidate["tokens"])
            [scores] = await smollm2.score([ScoreRequest(prompt=prompt, completion=completion)])
            np.testing.assert_allclose(logprobs, scores, rtol=0, atol=1e-3)
        gains = [weight * sum(candidate["logprobs"][view]) for view, weight in weights.items()]
        assert candidate["score"] == pytest.approx(sum(gains))
    assert any("\n" in candidate["text"].strip() for candidate in record["candidates"])
