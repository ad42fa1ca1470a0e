"""The user's own vLLM with ``VLLM_PLUGINS=preftilt``, as cramped as can be: few tokens a step and little cache.

So prompts are read in pieces, requests are preempted and the batch is full, all by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from tools.servers.launch import Server, ServerFailed, start
from tools.servers.plugin import ROOT, installed

from preftilt.engines.base import Engine, GuidedView, GuideRequest, SampleRequest
from preftilt.engines.models import demo_folder
from preftilt.engines.transformers import TransformersEngine
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.types import Mask, Sampling, Stream, Tokens

PREFERENCE = "I dislike anything that is loud or crowded."
OTHERS = ("I dislike gamification.", "I love the sea.", "I am vegetarian.")
QUESTIONS = (
    "How can I make my evenings more fun?",
    "What are some enjoyable ways to study maths?",
    "What should I cook tonight?",
    "Where should I go at the weekend?",
)
STEP_TOKENS, BLOCKS = 128, 96


@pytest.fixture(scope="module")
def plugged(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = [str(ROOT / "src"), str(installed(tmp_path_factory.mktemp("installed")))]
    flags = ["--max-num-batched-tokens", str(STEP_TOKENS), "--num-gpu-blocks-override", str(BLOCKS)]
    presets = {"calm": {"preference": OTHERS[1], "lambda": 3}}
    flags += ["--additional-config", json.dumps({"preftilt": {"presets": presets}})]
    server = start(
        "vllm",
        demo_folder(),
        logs / "vllm-plugin.log",
        flags=flags,
        environment={
            "VLLM_PLUGINS": "preftilt",
            "PYTHONPATH": os.pathsep.join(path),
            "VLLM_LOGGING_LEVEL": "INFO",  # An engine in this process asks for errors alone.
        },
    )
    yield server
    server.stop()


@pytest.fixture
async def client(plugged: Server):
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(
        base_url=plugged.url, trust_env=False, timeout=900, limits=limits
    ) as opened:
        yield opened


def body(question: str = QUESTIONS[0], **knob: Any) -> dict[str, Any]:
    """A request, guided if the knob is turned."""
    sent: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 24,
    }
    return sent | ({"preftilt": knob | {"details": True}} if knob else {})


async def ask(client: httpx2.AsyncClient, sent: dict[str, Any]) -> dict[str, Any]:
    reply = await client.post("/v1/chat/completions", json=sent)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def expected(reference: Engine, record: dict[str, Any]) -> list[Tokens]:
    """What the embedded engine draws for the request of ``record``."""
    assert isinstance(reference, TransformersEngine)
    settings = record["settings"]
    search, prompts = settings["search"], record["prompts"]
    mask = search["mask_top_p"]
    request = GuideRequest(
        views=tuple(
            GuidedView(tuple(prompts[view["name"]]), view["weight"]) for view in record["views"]
        ),
        slots=tuple(range(search["n"])),
        stream=Stream(record["seed"]),
        sampling=Sampling(
            temperature=0 if search["greedy"] else settings["temperature"],
            top_p=settings["top_p"],
            top_k=settings["top_k"],
        ),
        max_tokens=settings["max_tokens"],
        mask=None if mask is None else Mask(top_p=mask, of=search["mask_from"]),
        preferred=1,
        strength_by=search["strength_by"],
    )
    [answers] = await reference.guide([request])
    return [answer.tokens for answer in answers]


def drawn(record: dict[str, Any]) -> list[Tokens]:
    """The tokens of its candidates, by slot."""
    candidates = sorted(record["candidates"], key=lambda candidate: candidate["slot"])
    return [tuple(candidate["tokens"]) for candidate in candidates]


async def counted(client: httpx2.AsyncClient, name: str) -> float:
    """The sum of one of the server's metrics."""
    text = (await client.get("/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


LONG = "Please take your time. " * 30

ASKED: dict[str, dict[str, Any]] = {
    "one preference": body(preference=PREFERENCE),
    "a strong one": body(preference={"text": PREFERENCE, "lambda": 4}),
    "turned away from": body(preference={"text": OTHERS[1], "lambda": -1}),
    "several": body(
        preferences=[{"text": PREFERENCE, "lambda": 2}, {"text": OTHERS[1], "lambda": -0.5}]
    ),
    "drawn": body(preference=PREFERENCE) | {"temperature": 1.0, "seed": 7},
    "drawn from a nucleus": body(preference=PREFERENCE)
    | {"temperature": 0.8, "top_p": 0.9, "seed": 8},
    "several answers": body(preference=PREFERENCE, search={"name": "cfg", "n": 4})
    | {"temperature": 1.0, "seed": 9},
    "masked": body(preference=PREFERENCE, search={"name": "cfg", "mask_top_p": 0.9}),
    "by divergence": body(
        preference=PREFERENCE, search={"name": "cfg", "strength_by": "divergence"}
    ),
    "guidance_scale": body(preference=PREFERENCE)
    | {"guidance_scale": 3, "negative_prompt": OTHERS[1]},
    "a prompt that is read in pieces": body(LONG + QUESTIONS[0], preference=PREFERENCE),
    "a model's name that says how": body(preference=PREFERENCE)
    | {"model": "demo:cfg-2-l3", "seed": 3},
}


@pytest.mark.parametrize("name", ASKED)
async def test_a_guided_answer_is_the_embedded_engines(client, reference: Engine, name: str):
    record = (await ask(client, ASKED[name]))["preftilt"]
    assert drawn(record) == await expected(reference, record)
    assert record["engine"] == "vllm:demo"


async def test_prompts_that_do_not_fit_one_step_together_change_no_answer(
    client, reference: Engine
):
    bodies = [body(LONG + question, preference=PREFERENCE) for question in QUESTIONS]
    replies = await asyncio.gather(*(ask(client, sent) for sent in bodies))
    for reply in replies:
        record = reply["preftilt"]
        assert sum(map(len, record["prompts"].values())) > STEP_TOKENS
        assert drawn(record) == await expected(reference, record)


async def test_guided_and_plain_requests_at_once_are_each_answered_as_alone(
    client, reference: Engine
):
    """128 requests on 64 rows and a cache for half of them: the batch is full, and vLLM preempts."""
    before = await counted(client, "vllm:num_preemptions_total")
    bodies = [
        body(QUESTIONS[i % 4], preference=(PREFERENCE, *OTHERS)[i // 4 % 4])
        if i % 2
        else body(QUESTIONS[i % 4])
        for i in range(128)
    ]
    bodies = [dict(sent, max_tokens=24 + i % 5 * 4) for i, sent in enumerate(bodies)]
    replies = await asyncio.gather(*(ask(client, sent) for sent in bodies))
    assert await counted(client, "vllm:num_preemptions_total") > before
    plain = {question: await _plain(reference, question) for question in QUESTIONS}
    known: dict[str, Tokens] = {}
    for sent, reply in zip(bodies, replies, strict=True):
        if "preftilt" not in sent:
            text = reply["choices"][0]["message"]["content"]
            assert plain[sent["messages"][0]["content"]].startswith(text)
            continue
        record = reply["preftilt"]
        prompts = json.dumps(record["prompts"])
        if prompts not in known:
            settings = record["settings"] | {"max_tokens": 40}
            [known[prompts]] = await expected(reference, record | {"settings": settings})
        assert drawn(record) == [known[prompts][: sent["max_tokens"]]]
    assert await counted(client, "vllm:num_requests_running") == 0


async def test_a_stream_says_what_the_whole_reply_does(client):
    sent = body(preference=PREFERENCE)
    whole = await ask(client, sent)
    text, finish, usage = "", None, None
    stream = sent | {"stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", "/v1/chat/completions", json=stream) as reply:
        pieces = 0
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                pieces += bool(choice["delta"].get("content"))
                finish = choice["finish_reason"] or finish
    [choice] = whole["choices"]
    assert (text, finish) == (choice["message"]["content"], choice["finish_reason"])
    assert usage == whole["usage"]
    assert pieces > 3


async def test_best_of_n_is_scored_by_the_same_vllm(client):
    record = (await ask(client, body(preference=PREFERENCE, search="best-of-n", n=4)))["preftilt"]
    assert len(record["candidates"]) == 4
    assert all(
        set(candidate["logprobs"]) == {"question", "full"} for candidate in record["candidates"]
    )


async def test_draws_from_a_prompt_that_is_read_in_parts_leave_out_their_seeds(
    client, plugged: Server
):
    """With a seed, this would end vLLM 0.32 on a CPU: "CPU Generator does not use offset"."""
    question = " ".join(f"{i}. {text}" for i, text in enumerate(QUESTIONS * 5))
    sent = body(question, preference=PREFERENCE, search="best-of-n", n=4)
    record = (await ask(client, sent | {"temperature": 1.0, "seed": 4}))["preftilt"]
    assert min(map(len, record["prompts"].values())) > STEP_TOKENS
    assert len(record["candidates"]) == 4
    assert "preftilt: seeds left out: " in plugged.log.read_text()


async def test_what_it_costs_stands_under_the_servers_own_metrics(client):
    names = [
        'preftilt_requests_total{endpoint="/v1/chat/completions",status="200"}',
        'preftilt_requests_total{endpoint="/v1/chat/completions",status="400"}',
        'preftilt_tokens_total{kind="sampled"}',
        "preftilt_candidates_total",
        'preftilt_request_seconds_count{endpoint="/v1/chat/completions"}',
    ]

    async def shown() -> dict[str, float]:
        text = (await client.get("/metrics")).text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        assert float(lines["preftilt_admitted"]) == 0
        return {name: float(lines.get(name, 0)) for name in names}

    before = await shown()
    reply = await ask(client, body(preference=PREFERENCE))
    await ask(client, body())
    refused = body(preference=PREFERENCE) | {"max_tokens": 2000}
    assert (await client.post("/v1/chat/completions", json=refused)).status_code == 400
    after = await shown()
    spent = [after[name] - before[name] for name in names]
    assert spent == [1, 1, reply["usage"]["completion_tokens"], 1, 2]


async def test_presets_and_suffixes_are_listed_and_can_be_asked_for(client):
    listed = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
    assert [*listed] == ["demo", "demo:calm"]
    assert [model["owned_by"] for model in listed.values()] == ["vllm", "preftilt"]
    assert listed["demo"]["max_model_len"] == listed["demo:calm"]["max_model_len"]
    assert "demo:bon-16-l20" in listed["demo"]["preftilt"]["suffixes"]
    assert listed["demo:calm"]["preftilt"]["lambda"] == 3
    named = await ask(client, body() | {"model": "demo:calm"})
    stated = await ask(client, body(preference={"text": OTHERS[1], "lambda": 3}))
    assert named["choices"][0]["message"] == stated["choices"][0]["message"]


def test_model_runner_v2_is_refused_before_the_model_is_read(
    logs: Path, tmp_path_factory: pytest.TempPathFactory
):
    path = [str(ROOT / "src"), str(installed(tmp_path_factory.mktemp("installed")))]
    environment = {
        "VLLM_PLUGINS": "preftilt",
        "PYTHONPATH": os.pathsep.join(path),
        "VLLM_USE_V2_MODEL_RUNNER": "1",
    }
    with pytest.raises(ServerFailed, match="set VLLM_USE_V2_MODEL_RUNNER=0"):
        start("vllm", demo_folder(), logs / "vllm-plugin-v2.log", environment=environment)
    assert "Loading weights" not in (logs / "vllm-plugin-v2.log").read_text("utf-8")


async def test_a_client_that_leaves_takes_its_group_with_it(client):
    sent = body(preference=PREFERENCE) | {"max_tokens": 1500, "temperature": 1.0, "n": 8}
    sent |= {"stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=sent) as reply:
        async for _ in reply.aiter_lines():
            break
    for _ in range(100):
        if await counted(client, "vllm:num_requests_running") == 0:
            break
        await asyncio.sleep(0.2)
    assert await counted(client, "vllm:num_requests_running") == 0
    await ask(client, body(preference=PREFERENCE))


async def test_a_request_without_the_object_is_vllms_own(client):
    reply = await ask(client, body() | {"preftilt": None, "top_k": 5, "min_p": 0.0})
    assert reply["system_fingerprint"].startswith("vllm-")
    refused = await client.post("/v1/chat/completions", json=body() | {"messages": []})
    assert refused.status_code == 400
    assert (
        await client.post("/v1/chat/completions", content=b"{", headers=JSON)
    ).status_code == 400
    tokens = await client.post("/tokenize", json={"model": "demo", "prompt": "Hello"})
    assert tokens.json()["count"] > 0


JSON = {"content-type": "application/json"}

REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another model": (body(preference="x") | {"model": "lora"}, 404, "no model 'lora' here"),
    "a slider that is no number": (body(preference={"text": "x", "lambda": "much"}), 400, "lambda"),
    "a field of vLLM's that a guided answer does not have": (
        body(preference="x") | {"repetition_penalty": 1.2},
        400,
        "repetition_penalty",
    ),
    "a guidance scale that the object contradicts": (
        body(preference={"text": "x", "lambda": 2}) | {"guidance_scale": 3},
        400,
        "give one of them",
    ),
    "a schema": (
        body(preference="x") | {"response_format": {"type": "json_object"}},
        400,
        "response_format",
    ),
    "a knob without a preference": (body(search="cfg"), 400, "no preference to follow"),
    "a response that the cache cannot hold twice": (
        body(preference="x") | {"max_tokens": 2000},
        400,
        "key/value cache",
    ),
    "the processor's own argument": (
        body() | {"vllm_xargs": {"preftilt": "x"}},
        400,
        "preftilt's own",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_done_is_refused_in_openais_shape(client, name: str):
    sent, status, words = REFUSED[name]
    reply = await client.post("/v1/chat/completions", json=sent)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["error"]["message"]


async def test_a_vllm_into_which_the_processor_was_not_loaded_is_refused(monkeypatch):
    from preftilt.vllm_plugin import opening

    cannot = SimpleNamespace(capabilities=SimpleNamespace(guides=False))
    monkeypatch.setattr(opening, "measure", lambda *_: cannot)
    monkeypatch.setattr(opening, "open_tokenizer", lambda *_: None)
    args = Namespace(chat_template=None, default_chat_template_kwargs=None)
    client = SimpleNamespace(model_config=SimpleNamespace(tokenizer="demo"))
    with pytest.raises(BadInput, match="logits processor was not loaded"):
        opening.open_client(client, asyncio.get_running_loop(), "demo", args)


async def _plain(reference: Engine, question: str) -> str:
    request = SampleRequest(
        prompt=reference.tokenizer.render([Message("user", question)]),
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(temperature=0),
        max_tokens=48,
    )
    [[completion]] = await reference.sample([request])
    return reference.tokenizer.decode(completion.tokens)
