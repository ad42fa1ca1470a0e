"""``preftilt serve`` in front of real servers, asked by the official ``openai`` client.

What comes back is held to the embedded engine: it scores the same candidates, and must choose the same answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from tools.servers.launch import Server, start

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.models import demo_folder
from preftilt.messages import Message
from preftilt.types import Sampling, Stream
from tests.servers.process import Served, preftilt_serve

CLOSE = 1e-3
"""Nats a token, in float32."""

N = 6
QUESTION = [{"role": "user", "content": "How can I make my evenings more fun?"}]
WISH = {"preference": "I dislike anything that is loud or crowded.", "lambda": 5, "n": N}
UPSTREAMS = {
    "vllm": ("vllm_server", "vllm"),
    "plain": ("vllm_server", "openai"),
    "sglang": ("sglang_server", "sglang"),
}
"""Which server stands behind, and the scheme that it is opened by: ``plain`` is vLLM taken for any other server."""

FLAGS = ("--tokenizer", "demo", "--served-model-name", "demo", "--max-tokens", "16")


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, logs: Path) -> Iterator[dict[str, Served]]:
    """Ours, in front of each of :data:`UPSTREAMS` that has been asked for; see :func:`served`."""
    with ExitStack() as stack:

        class Starting(dict[str, Served]):
            def __missing__(self, name: str) -> Served:
                fixture, scheme = UPSTREAMS[name]
                upstream: Server = request.getfixturevalue(fixture)
                log = logs / f"serve-{name}.log"
                model = f"{scheme}+{upstream.url}"
                self[name] = stack.enter_context(preftilt_serve(model, log, *FLAGS))
                return self[name]

        yield Starting()


@pytest.fixture(params=UPSTREAMS)
def served(request: pytest.FixtureRequest, running: dict[str, Served]) -> Served:
    return running[request.param]


def create(served: Served, **changes: Any) -> Any:
    """The answer, or the chunks of a stream."""
    fields: dict[str, Any] = {"model": "demo", "messages": QUESTION, "seed": 3}
    fields["extra_body"] = {"preftilt": WISH | {"details": True}}
    with served.client() as client:
        said = client.chat.completions.create(**(fields | changes))
        return list(said) if changes.get("stream") else said


async def best_for(reference: Engine, record: dict[str, Any], lam: float) -> tuple[list[str], int]:
    """Texts of candidates that nobody beats by more than rounding, as the embedded engine scores them; tokens read."""
    candidates = record["candidates"]
    rows: dict[str, list[np.ndarray]] = {}
    for view in ("question", "full"):
        prompt = tuple(record["prompts"][view])
        requests = [
            ScoreRequest(prompt=prompt, completion=tuple(one["tokens"])) for one in candidates
        ]
        rows[view] = await reference.score(requests)
        for one, want in zip(candidates, rows[view], strict=True):
            np.testing.assert_allclose(one["logprobs"][view], want, rtol=0, atol=CLOSE)
    scores = [
        question.sum() + lam * (full.sum() - question.sum())
        for question, full in zip(rows["question"], rows["full"], strict=True)
    ]
    slack = 2 * lam * CLOSE * max(len(one["tokens"]) for one in candidates)
    near = [
        one["text"] for one, at in zip(candidates, scores, strict=True) if at >= max(scores) - slack
    ]
    return near, sum(len(one["tokens"]) for one in candidates)


async def test_the_answer_is_the_one_that_the_embedded_engine_would_choose(
    served: Served, reference: Engine
):
    said = create(served)
    near, drawn = await best_for(reference, said.preftilt, 5.0)
    assert len(said.preftilt["candidates"]) == N
    assert len({one["text"] for one in said.preftilt["candidates"]}) > 1
    assert said.choices[0].message.content in near
    assert said.choices[0].finish_reason in ("stop", "length")
    assert said.usage.completion_tokens == drawn
    spent = said.usage.model_extra["preftilt"]
    assert spent["sampled"] == drawn
    assert spent["candidates"] == N
    assert spent["scored"]["question"] > 0
    read = sum(spent["prompt"].values()) + sum(spent["scored"].values())
    assert said.usage.prompt_tokens == read
    assert said.usage.total_tokens == read + drawn


async def test_a_stream_ends_with_the_same_text_usage_and_record(served: Served, reference: Engine):
    chunks = create(served, stream=True, stream_options={"include_usage": True})
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    last = chunks[-1]
    near, drawn = await best_for(reference, last.preftilt, 5.0)
    assert text == last.preftilt["text"]
    assert text in near
    assert last.usage.completion_tokens == drawn
    told = [one.choices[0].delta.model_extra.get("preftilt") for one in chunks if one.choices]
    known = [one for said in told if said for one in said.get("candidates", ())]
    assert {one["slot"] for one in known if "score" in one} == set(range(N))
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] in ("stop", "length")


def test_the_model_s_name_is_the_knob_for_clients_that_can_send_nothing_else(served: Served):
    wish = {"preference": WISH["preference"], "details": True}
    said = create(served, model="demo:bon-4-l20", extra_body={"preftilt": wish})
    assert said.preftilt["settings"]["lambda"] == 20
    assert said.usage.model_extra["preftilt"]["candidates"] == 4
    assert said.choices[0].message.content == said.preftilt["candidates"][0]["text"]


def test_choices_are_the_best_distinct_candidates(served: Served):
    said = create(served, n=3)
    ranked = list(dict.fromkeys(one["text"] for one in said.preftilt["candidates"]))
    assert len(ranked) >= 3
    assert [one.message.content for one in said.choices] == ranked[:3]


def test_log_probs_belong_to_the_tokens_of_the_answer(served: Served):
    said = create(served, logprobs=True)
    shown = said.choices[0].logprobs.content
    best = said.preftilt["candidates"][0]
    assert "".join(one.token for one in shown) == said.choices[0].message.content
    assert [one.logprob for one in shown] == best["logprobs"]["full"][: len(shown)]
    assert len(shown) >= len(best["tokens"]) - 1


async def test_without_a_preference_the_greedy_answer_is_the_embedded_engine_s(
    served: Served, reference: Engine
):
    said = create(served, extra_body=None, temperature=0)
    request = SampleRequest(
        prompt=reference.tokenizer.render([Message("user", QUESTION[0]["content"])]),
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(temperature=0.0),
        max_tokens=16,
    )
    [[greedy]] = await reference.sample([request])
    assert said.choices[0].message.content == reference.tokenizer.decode(greedy.tokens)
    assert said.usage.completion_tokens == len(greedy.tokens)
    assert said.usage.model_extra["preftilt"]["scored"] == {}


def test_text_arrives_piece_by_piece_where_one_answer_is_drawn(served: Served):
    chunks = create(served, extra_body=None, temperature=0, stream=True)
    pieces = [one.choices[0].delta.content for one in chunks if one.choices]
    assert len([one for one in pieces if one]) > 1
    whole = create(served, extra_body=None, temperature=0).choices[0].message.content
    assert "".join(one or "" for one in pieces) == whole


def test_a_tree_search_settles_its_text_step_by_step(served: Served):
    wish = WISH | {"search": {"name": "dvts", "subtrees": 1, "width": 4}, "details": True}
    del wish["n"]
    chunks = create(served, extra_body={"preftilt": wish}, stream=True)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == chunks[-1].preftilt["text"]
    assert text


def test_a_deadline_gives_the_best_answer_so_far_and_says_so(served: Served):
    wish = WISH | {"deadline_s": 0.001, "details": True}
    said = create(served, extra_body={"preftilt": wish}, max_tokens=200)
    assert any("deadline" in one for one in said.preftilt["notes"])
    assert said.choices[0].message.content == said.preftilt["candidates"][0]["text"]
    assert said.usage.completion_tokens < N * 200


def test_the_same_seed_gives_the_same_answer_where_the_server_keeps_seeds(
    running: dict[str, Served],
):
    for name in ("vllm", "plain"):
        first, again, other = (create(running[name], seed=seed) for seed in (11, 11, 12))
        drawn = [
            [tuple(one["tokens"]) for one in said.preftilt["candidates"]]
            for said in (first, again, other)
        ]
        assert sorted(drawn[0]) == sorted(drawn[1])
        assert sorted(drawn[0]) != sorted(drawn[2])


def test_the_server_s_model_is_listed_and_refusals_are_openai_s_own(served: Served):
    with served.client() as client:
        assert [one.id for one in client.models.list()] == ["demo"]
    with pytest.raises(openai.BadRequestError) as refused:
        create(served, max_tokens=100_000)
    assert refused.value.code == "context_length_exceeded"


@pytest.fixture
def doomed(logs: Path) -> Iterator[Server]:
    """A vLLM server that a test may kill."""
    server = start("vllm", demo_folder(), logs / "vllm-doomed.log")
    yield server
    server.stop()


def test_an_upstream_that_is_killed_is_a_502(doomed: Server, logs: Path):
    """While it draws, and afterwards; the server itself stays up."""
    log = logs / "serve-doomed.log"
    with preftilt_serve(f"vllm+{doomed.url}", log, *FLAGS) as served:
        assert create(served).choices[0].message.content
        failures: list[openai.APIStatusError] = []

        def draw_long() -> None:
            try:
                create(served, max_tokens=2000, extra_body={"preftilt": WISH | {"n": 32}})
            except openai.APIStatusError as failure:
                failures.append(failure)

        asking = threading.Thread(target=draw_long)
        asking.start()
        _until_it_draws(served)
        os.killpg(doomed.process.pid, signal.SIGKILL)
        asking.join(120)
        assert [one.status_code for one in failures] == [502]
        with pytest.raises(openai.InternalServerError) as gone:
            create(served)
        assert gone.value.status_code == 502
        assert gone.value.code == "engine_failed"
        assert "cannot be reached" in gone.value.message
        assert httpx2.get(f"{served.url}/health", trust_env=False).status_code == 200


def _until_it_draws(served: Served) -> None:
    """Ours has the request at work; what vLLM does with it takes seconds."""
    until = time.monotonic() + 60
    while "preftilt_admitted 1" not in httpx2.get(f"{served.url}/metrics", trust_env=False).text:
        assert time.monotonic() < until
        time.sleep(0.05)
