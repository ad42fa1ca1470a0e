"""A real model in the user's own vLLM: its guided answers are the embedded engine's, token for token."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tools.servers.launch import Server, start
from tools.servers.plugin import ROOT, installed

from preftilt.engines.base import Engine
from preftilt.engines.gguf import model_folder
from preftilt.engines.models import SMOLLM2
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
        assert len(record["candidates"][0]["tokens"]) == 24
    assert [view["weight"] for view in replies[-1]["preftilt"]["views"]] == [-1, 2]
