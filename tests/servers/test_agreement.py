"""One request, every engine: the same log-probs and the same winner."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from preftilt.api import Realigner, Settings
from preftilt.engines.base import Engine, Partial, SampleRequest, ScoreRequest
from preftilt.messages import Message
from preftilt.search import BestOfN
from preftilt.server.request_engine import NewTokens, RequestEngine
from preftilt.types import Completion, Preference, Sampling, Stream, Tokens

ENGINES = ("vllm_engine", "vllm_over_http", "openai_over_http", "sglang_over_http")
CLOSE = 1e-3
"""Nats a token, in float32."""

QUESTION = (Message("user", "How can I make my evenings more fun?"),)
PREFERENCE = (Preference("I dislike anything that is loud or crowded."),)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def candidates(reference: Engine, prompts: tuple[Tokens, Tokens]) -> list[Completion]:
    """Drawn once, by the embedded engine."""
    request = SampleRequest(
        prompt=prompts[0],
        slots=tuple(range(12)),
        stream=Stream(5),
        sampling=Sampling(),
        max_tokens=48,
    )
    [drawn] = asyncio.run(_sample(reference, request))
    return drawn


async def test_log_probs_are_those_of_the_embedded_engine(
    engine: Engine, reference: Engine, prompts: tuple[Tokens, Tokens], candidates: list[Completion]
):
    requests = [
        ScoreRequest(prompt=prompt, completion=one.tokens)
        for prompt in prompts
        for one in candidates
    ]
    ours, theirs = await reference.score(requests), await engine.score(requests)
    for want, got in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)


async def test_log_probs_of_sampling_are_those_of_the_embedded_engine(
    engine: Engine, reference: Engine, prompts: tuple[Tokens, Tokens]
):
    request = SampleRequest(
        prompt=prompts[0],
        slots=tuple(range(4)),
        stream=Stream(6),
        sampling=Sampling(temperature=0.7, top_p=0.9),
        max_tokens=24,
    )
    [drawn] = await engine.sample([request])
    scored = await reference.score(
        [ScoreRequest(prompt=prompts[0], completion=one.tokens) for one in drawn]
    )
    for one, want in zip(drawn, scored, strict=True):
        np.testing.assert_allclose(one.logprobs, want, rtol=0, atol=CLOSE)


async def test_the_same_candidates_have_the_same_winner(
    engine: Engine, reference: Engine, candidates: list[Completion]
):
    """Each is taken for a whole response: its text is tokenised, closed, and scored under both views."""
    texts = [reference.tokenizer.decode(one.tokens) for one in candidates]
    responses = [text for text in dict.fromkeys(texts) if text.strip()]
    assert len(responses) >= 4
    settings = Settings(lam=5.0)
    ours = await Realigner(reference, settings).score(QUESTION, PREFERENCE, responses)
    theirs = await Realigner(engine, settings).score(QUESTION, PREFERENCE, responses)
    assert theirs.text == ours.text
    assert [one.text for one in theirs.candidates] == [one.text for one in ours.candidates]


async def test_greedy_answers_are_the_same(engine: Engine, reference: Engine):
    settings = Settings(
        lam=1.0, search=BestOfN(n=1), sampling=Sampling(temperature=0.0), max_tokens=40
    )
    ours = await Realigner(reference, settings).realign(QUESTION, PREFERENCE)
    theirs = await Realigner(engine, settings).realign(QUESTION, PREFERENCE)
    assert theirs.text == ours.text


async def test_a_streamed_greedy_answer_is_the_same_and_comes_in_parts(
    engine: Engine, reference: Engine, prompts: tuple[Tokens, Tokens]
):
    request = SampleRequest(
        prompt=prompts[0],
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(temperature=0.0),
        max_tokens=48,
    )
    [[want]] = await reference.sample([request])
    partial, parts = Partial(), 0
    async with aclosing(engine.stream(request)) as increments:
        async for increment in increments:
            partial.take(increment)
            parts += 1
    got = partial.response(request, "length")
    assert (got.tokens, got.finish) == (want.tokens, want.finish)
    np.testing.assert_allclose(got.logprobs, want.logprobs, rtol=0, atol=CLOSE)
    assert parts > 1


async def test_a_deadline_in_the_middle_ends_the_one_request_and_keeps_what_has_come(
    engine: Engine, prompts: tuple[Tokens, Tokens]
):
    view = RequestEngine(engine, deadline=math.inf)

    def time_is_up(news: NewTokens) -> None:
        view.deadline = time.monotonic()

    view.tell = time_is_up
    request = SampleRequest(
        prompt=prompts[0],
        slots=(0, 1, 2, 3),
        stream=Stream(2),
        sampling=Sampling(),
        max_tokens=400,
    )
    [drawn] = await view.sample([request])
    assert 0 < sum(len(one.tokens) for one in drawn) < 200
    assert view.late == sum(one.finish == "length" for one in drawn) > 0
    [[again]] = await engine.sample([replace(request, slots=(0,), max_tokens=4)])
    assert len(again.tokens) == 4 or again.finish == "eos"


async def test_a_whole_request_is_scored_as_the_embedded_engine_would(
    engine: Engine, reference: Engine
):
    """Drawn by this engine, scored by it under both views, and read again by the embedded one."""
    settings = Settings(lam=5.0, search=BestOfN(n=8), max_tokens=32)
    found = await Realigner(engine, settings).realign(QUESTION, PREFERENCE)
    assert len(found.candidates) == 8
    assert found.text == found.candidates[0].text
    for name, prompt in found.prompts.items():
        requests = [ScoreRequest(prompt=prompt, completion=one.tokens) for one in found.candidates]
        for one, want in zip(found.candidates, await reference.score(requests), strict=True):
            np.testing.assert_allclose(one.logprobs[name], want, rtol=0, atol=CLOSE)


async def _sample(engine: Engine, request: SampleRequest) -> list[list[Completion]]:
    return await engine.sample([request])
