"""The laws of the engine contract, over HTTP, whatever of its API a server has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.testing.contract import EngineLaws
from preftilt.types import Sampling, Step, Stream
from tests.engine_http.conftest import Opened, Running, stand_in_engine

SERVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vLLM": ("vllm", {}),
    "vLLM without its token endpoint": ("vllm", {"shares_prefixes": False}),
    "vLLM that does not tell what was cached": ("vllm", {"tells_cached": False}),
    "vLLM that must draw to read": (
        "vllm",
        {"shares_prefixes": False, "reads_without_drawing": False},
    ),
    "vLLM with scaled log-probs": ("vllm", {"lie": "scaled"}),
    "OpenAI's API with token ids": ("openai", {}),
    "OpenAI's API with text out": ("openai", {"returns_ids": False}),
    "OpenAI's API with text only, strict": (
        "openai",
        {"takes_ids": False, "takes_unknown_fields": False, "many": False},
    ),
}


class TestServer(EngineLaws):
    @pytest.fixture(scope="class", params=SERVERS)
    @classmethod
    def engine(cls, request: pytest.FixtureRequest, tokenizer_folder: str) -> Iterator[Engine]:
        kind, manners = SERVERS[request.param]
        with stand_in_engine(kind, manners, tokenizer=tokenizer_folder) as engine:
            yield engine


async def test_every_sampling_setting_is_sent(server: Running, opened: Opened):
    engine = opened("vllm")
    request = _request(engine.tokenizer.encode("Hello"), sampling=Sampling(temperature=0.7))
    await engine.sample([request])
    body = server.seen.asked("/v1/completions")[-1]
    named = {"n": 3, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 8}
    named |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    named |= {"ignore_eos": True, "stop_token_ids": sorted(engine.capabilities.eos)}
    assert named.items() <= body.items()
    assert body["prompt"] == list(request.prompt)


async def test_other_seeds_items_and_places_are_other_draws(server: Running, opened: Opened):
    engine = opened("vllm")
    prompt = engine.tokenizer.encode("Hello")
    for stream, prefix in (
        (Stream(1), ()),
        (Stream(2), ()),
        (Stream(1, "b"), ()),
        (Stream(1), (33,)),
    ):
        await engine.sample([_request(prompt, stream=stream, prefix=prefix)])
    seeds = [body["seed"] for body in server.seen.asked("/v1/completions")[-4:]]
    assert len(set(seeds)) == 4
    await engine.sample([_request(prompt, stream=Stream(1))])
    assert server.seen.asked("/v1/completions")[-1]["seed"] == seeds[0]


async def test_a_greedy_draw_is_asked_for_once_and_serves_every_slot(
    server: Running, opened: Opened
):
    engine = opened("vllm")
    prompt = engine.tokenizer.encode("Hello")
    [drawn] = await engine.sample([_request(prompt, sampling=Sampling(temperature=0.0))])
    assert len(drawn) == 3
    assert len({one.tokens for one in drawn}) == 1
    assert server.seen.asked("/v1/completions")[-1]["n"] == 1


@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_a_step_ends_with_the_token_that_completes_its_delimiter(kind: str, opened: Opened):
    engine = opened(kind)
    prompt = engine.tokenizer.encode("Hello")
    request = _request(prompt, slots=24, max_tokens=40, step=Step("e"))
    [drawn] = await engine.sample([request])
    stopped = [one for one in drawn if one.finish == "step"]
    assert stopped
    for one in stopped:
        text = engine.tokenizer.decode(one.tokens)
        assert text.endswith("e")
        assert "e" not in text[:-1]
    assert all(len(one.tokens) == len(one.logprobs) for one in drawn)


async def test_leading_white_space_ends_no_step(server: Running, opened: Opened):
    """The server stops at the first newline, before anything is visible; the engine has it go on."""
    engine = opened("vllm")
    newline = engine.tokenizer.encode("\n")
    prompt = engine.tokenizer.encode("Hello")
    before = len(server.seen.bodies)
    original = server.app.next_logprobs

    def newline_first(context):
        row = original(context).copy()
        if context == prompt:
            row[:] = -50.0
            row[newline[0]] = 0.0
        return row

    server.app.next_logprobs = newline_first
    try:
        [drawn] = await engine.sample([_request(prompt, max_tokens=10, step=Step("\n"))])
    finally:
        server.app.next_logprobs = original
    assert len(server.seen.bodies) - before > 1
    for one in drawn:
        assert one.tokens[:1] == newline
        assert len(one.tokens) > 1


async def test_scoring_many_responses_reads_their_prompt_once(server: Running, opened: Opened):
    engine = opened("vllm")
    prompt = (engine.tokenizer.encode("What shall we do today? ") * 9)[:200]
    responses = [engine.tokenizer.encode(text) for text in ("Read", "Swim", "Cook", "Walk")]
    server.app._cache.clear()
    server.seen.computed = 0
    shared = await engine.score(_scores(prompt, responses))
    with_sharing = server.seen.computed
    server.manners.shares_prefixes = False
    plain_engine = opened("vllm")
    server.seen.computed = 0
    plain = await plain_engine.score(_scores(prompt, responses))
    assert with_sharing < 0.5 * server.seen.computed
    for one, other in zip(shared, plain, strict=True):
        assert one.tolist() == pytest.approx(other.tolist())


async def test_a_response_that_was_cached_itself_is_read_again(server: Running, opened: Opened):
    """Rows of what comes from the cache are garbage; a context of whole blocks is cached to its last token."""
    engine = opened("vllm")
    prompt = (engine.tokenizer.encode("What shall we do today? ") * 9)[:160]
    response = engine.tokenizer.encode("Read a book, then swim, then cook, then walk home.")
    first = await engine.score(_scores(prompt, [response, response[:20]]))
    again = await engine.score(_scores(prompt, [response, response[:20]]))
    for one, other in zip(first, again, strict=True):
        assert one.tolist() == pytest.approx(other.tolist())


@pytest.mark.parametrize("status", [400, 500])
async def test_cached_rows_that_cannot_be_written_are_read_again(
    status: int, server: Running, opened: Opened
):
    """What vLLM leaves in rows that it did not compute may be no number; its versions say so in two ways."""
    engine = opened("vllm")
    prompt = (engine.tokenizer.encode("What shall we do today? ") * 9)[:200]
    responses = [engine.tokenizer.encode(text) for text in ("Read", "Swim")]
    right = await engine.score(_scores(prompt, responses))
    server.app._cache.clear()
    server.manners.unwritable = status
    again = await engine.score(_scores(prompt, responses))
    for one, other in zip(right, again, strict=True):
        assert one.tolist() == pytest.approx(other.tolist())


def _request(prompt, *, slots: int = 3, max_tokens: int = 8, **more: Any) -> SampleRequest:
    settings: dict[str, Any] = {"stream": Stream(1), "sampling": Sampling()} | more
    return SampleRequest(
        prompt=prompt, slots=tuple(range(slots)), max_tokens=max_tokens, **settings
    )


def _scores(prompt, responses):
    return [ScoreRequest(prompt=prompt, completion=one) for one in responses]
