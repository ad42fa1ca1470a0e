"""A vLLM with LoRA adapters and the plugin: the model is guided, an adapter answers as it is, and nothing ends vLLM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from safetensors.numpy import save_file
from tools.servers.launch import Server, start
from tools.servers.plugin import ROOT, installed

from preftilt.engines.base import Engine
from preftilt.engines.models import demo_folder
from tests.servers.test_vllm_plugin import PREFERENCE, ask, body, drawn, expected


def adapter(folder: Path) -> Path:
    """A LoRA adapter of the bundled model that changes every answer, as peft writes one."""
    config = json.loads((Path(demo_folder()) / "config.json").read_text("utf-8"))
    width, rank = config["hidden_size"], 8
    random = np.random.default_rng(0)
    weights = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight": random.normal(
            scale=0.2, size=(rank, width) if half == "A" else (width, rank)
        ).astype(np.float32)
        for layer in range(config["num_hidden_layers"])
        for half in "AB"
    }
    save_file(weights, folder / "adapter_model.safetensors")
    kind = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
    size = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(kind | size), "utf-8")
    return folder


@pytest.fixture(scope="module")
def plugged(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = [str(ROOT / "src"), str(installed(tmp_path_factory.mktemp("installed")))]
    server = start(
        "vllm",
        demo_folder(),
        logs / "vllm-plugin-lora.log",
        flags=[
            "--enable-lora",
            "--lora-modules",
            f"tiny={adapter(tmp_path_factory.mktemp('lora'))}",
        ],
        environment={"VLLM_PLUGINS": "preftilt", "PYTHONPATH": os.pathsep.join(path)},
    )
    yield server
    server.stop()


async def test_the_model_is_guided_and_its_adapter_answers_as_it_is(
    plugged: Server, reference: Engine
):
    async with httpx2.AsyncClient(base_url=plugged.url, trust_env=False, timeout=900) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(model["id"], "preftilt" in model) for model in listed] == [
            ("demo", True),
            ("tiny", False),
        ]
        record = (await ask(client, body(preference=PREFERENCE)))["preftilt"]
        assert drawn(record) == await expected(reference, record)
        texts = {
            model: (await ask(client, body() | {"model": model}))["choices"][0]["message"]
            for model in ("demo", "tiny")
        }
        assert texts["demo"] != texts["tiny"]


REFUSED = {
    "guided": (body(preference=PREFERENCE) | {"model": "tiny"}, "'tiny' is a LoRA adapter"),
    "by a scale": (
        body() | {"model": "tiny", "guidance_scale": 2, "negative_prompt": "x"},
        "merge it into the model",
    ),
    "by its name": (body() | {"model": "tiny:cfg-l2"}, "merge it into the model"),
    "picking": (body(preference=PREFERENCE, search="best-of-n", n=2), "without --enable-lora"),
    "a tree": (body(preference=PREFERENCE) | {"model": "demo:dvts-2x2"}, "without --enable-lora"),
    "guiding by one view": (
        body(preference={"text": PREFERENCE, "lambda": 1}),
        "a λ other than 0 and 1",
    ),
}


async def test_what_an_adapter_cannot_do_is_refused_in_openais_shape(plugged: Server):
    async with httpx2.AsyncClient(base_url=plugged.url, trust_env=False, timeout=900) as client:
        for sent, words in REFUSED.values():
            reply = await client.post("/v1/chat/completions", json=sent)
            assert reply.status_code == 400, reply.text
            assert words in reply.json()["error"]["message"]
        await ask(client, body())
