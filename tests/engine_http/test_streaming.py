"""Streams from servers: one question, whoever watches, and whenever time is up."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from preftilt.engines.base import Engine, Partial, SampleRequest
from preftilt.engines.http.dialect import DrawRequest
from preftilt.engines.http.sglang import Generated, SglangDialect
from preftilt.errors import BadInput, EngineError
from preftilt.server.request_engine import NewTokens, RequestEngine
from preftilt.types import Completion, Sampling, Step, Stream
from tests.engine_http.conftest import Opened, Running
from tests.engine_http.test_laws import SERVERS
from tests.server.serving import QUESTION, serving

DRAWS = "/v1/completions"
LONG = {"context": 2048, "ends": False}
"""Manners of a server that draws all the tokens that it may."""


def behave(server: Running, **manners: Any) -> None:
    for key, value in manners.items():
        setattr(server.manners, key, value)


def request(engine: Engine, **changes: Any) -> SampleRequest:
    fields: dict[str, Any] = {"slots": (0, 1, 2), "stream": Stream(3), "max_tokens": 12}
    fields |= {"prompt": engine.tokenizer.encode("Hello"), "sampling": Sampling()}
    return SampleRequest(**(fields | changes))


def assert_equal(streamed: Sequence[Completion], called: Sequence[Completion]) -> None:
    """Responses of a stream and of a call: the same tokens, ends and log-probs."""
    assert [(response.tokens, response.finish) for response in streamed] == [
        (response.tokens, response.finish) for response in called
    ]
    for response, want in zip(streamed, called, strict=True):
        np.testing.assert_allclose(response.logprobs, want.logprobs, atol=1e-9)


async def streamed(engine: Engine, asked: SampleRequest) -> list[Completion]:
    partials = {slot: Partial() for slot in asked.slots}
    async with aclosing(engine.stream(asked)) as increments:
        async for increment in increments:
            partials[increment.slot].take(increment)
    assert all(partial.finish for partial in partials.values())
    return [partial.response(asked, "length") for partial in partials.values()]


def late_after(tokens: int, engine: Engine, told: list[NewTokens]) -> RequestEngine:
    """Time is up when so many tokens have come."""
    view = RequestEngine(engine, deadline=math.inf)

    def tell(news: NewTokens) -> None:
        told.append(news)
        if sum(each.tokens for each in told) == tokens:
            view.deadline = time.monotonic()

    view.tell = tell
    return view


def test_a_streamed_answer_of_512_tokens_is_one_request(server: Running, opened: Opened):
    behave(server, **LONG)
    engine = opened("vllm")
    server.seen.bodies.clear()
    fields: dict[str, Any] = {"messages": QUESTION, "model": "toy", "max_tokens": 512, "seed": 3}
    with serving(engine) as running, running.client() as client:
        chunks = list(client.chat.completions.create(stream=True, **fields))
        assert [path for path, _ in server.seen.bodies] == [DRAWS]
        whole = client.chat.completions.create(**fields)
    texts = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(map(bool, texts)) > 1
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 512


def test_best_of_16_under_a_deadline_is_drawn_by_one_request(server: Running, opened: Opened):
    behave(server, **LONG)
    engine = opened("vllm")
    server.seen.bodies.clear()
    server.seen.generations = 0
    wish = {"preference": "No games.", "n": 16, "deadline_s": 600, "details": True}
    fields: dict[str, Any] = {"messages": QUESTION, "model": "toy", "max_tokens": 24, "seed": 3}
    with serving(engine) as running, running.client() as client:
        said = client.chat.completions.create(extra_body={"preftilt": wish}, **fields)
        assert server.seen.generations == 1
        calm = {**wish, "deadline_s": None}
        whole = client.chat.completions.create(extra_body={"preftilt": calm}, **fields)
    tokens = [
        sorted((one["slot"], one["tokens"]) for one in each.preftilt["candidates"])
        for each in (said, whole)
    ]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 16


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("greedy", [False, True])
async def test_a_stream_is_what_a_call_gives(
    name: str, greedy: bool, server: Running, opened: Opened
):
    kind, manners = SERVERS[name]
    behave(server, **manners)
    engine = opened(kind)
    sampling = Sampling(temperature=0.0) if greedy else Sampling()
    for max_tokens in (1, 40):
        asked = request(engine, sampling=sampling, max_tokens=max_tokens)
        [called] = await engine.sample([asked])
        assert_equal(await streamed(engine, asked), called)


@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_ends_that_a_server_leaves_out_and_steps_are_those_of_a_call(
    kind: str, server: Running, opened: Opened
):
    behave(server, leaves_out_ends=kind == "openai")
    engine = opened(kind)
    for step in (None, Step("e"), Step("th")):
        asked = request(engine, max_tokens=60, step=step, slots=tuple(range(6)))
        [called] = await engine.sample([asked])
        assert_equal(await streamed(engine, asked), called)


@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_when_time_is_up_what_has_come_is_kept_and_the_connection_is_closed(
    kind: str, server: Running, opened: Opened
):
    behave(server, **LONG)
    engine = opened(kind)
    server.seen.bodies.clear()
    behave(server, events=40, then="hangs")
    told: list[NewTokens] = []
    view = late_after(40, engine, told)
    asked = request(engine, slots=tuple(range(16)), max_tokens=512)
    [drawn] = await view.sample([asked])
    assert [len(one.tokens) for one in drawn] == [2] * 8 + [3] * 8
    assert {one.finish for one in drawn} == {"length"}
    assert view.late == 16
    assert sum(news.tokens for news in told) == 40
    assert [path for path, _ in server.seen.bodies] == [DRAWS]
    await _until_abandoned(server, 1)


async def test_answers_that_have_not_begun_when_time_is_up_are_no_candidates(
    server: Running, opened: Opened
):
    engine = opened("vllm")
    behave(server, events=2, then="hangs")
    view = late_after(2, engine, [])
    [drawn] = await view.sample([request(engine)])
    assert [len(one.tokens) for one in drawn] == [0, 1, 1]
    assert "deadline" in drawn[0].absent
    assert not drawn[1].absent


async def test_time_that_was_up_before_costs_a_token_each(server: Running, opened: Opened):
    engine = opened("vllm")
    server.seen.bodies.clear()
    [drawn] = await RequestEngine(engine, deadline=time.monotonic()).sample([request(engine)])
    assert [len(one.tokens) for one in drawn] == [1, 1, 1]
    assert [body["max_tokens"] for body in server.seen.asked(DRAWS)] == [1]


@pytest.mark.parametrize("stops", [("e",), ("e", "th")])
async def test_all_answers_at_their_stop_strings_end_the_stream(
    stops: tuple[str, ...], server: Running, opened: Opened
):
    behave(server, **LONG)
    engine = opened("vllm")
    whole = RequestEngine(engine, stops=stops)
    view = RequestEngine(engine, stops=stops, tell=lambda news: None)
    asked = request(engine, max_tokens=512)
    [[*want], [*got]] = [(await each.sample([asked]))[0] for each in (whole, view)]
    assert [(one.tokens, one.finish) for one in got] == [(one.tokens, one.finish) for one in want]
    assert {one.finish for one in got} == {"stop_string"}


async def test_a_server_that_refuses_to_stream_is_asked_whole_and_that_is_remembered(
    server: Running, opened: Opened
):
    engine = opened("vllm")
    server.seen.bodies.clear()
    behave(server, streams=False)
    asked = request(engine)
    [called] = await engine.sample([asked])
    for posts in (3, 4):
        got = await streamed(engine, asked)
        assert [one.tokens for one in got] == [one.tokens for one in called]
        assert len(server.seen.asked(DRAWS)) == posts


@pytest.mark.parametrize("kind", ["vllm", "openai"])
async def test_a_server_that_overlooks_that_a_stream_was_asked_for_is_read_whole(
    kind: str, server: Running, opened: Opened
):
    engine = opened(kind)
    server.seen.bodies.clear()
    behave(server, ignores_streams=True)
    asked = request(engine)
    got = await streamed(engine, asked)
    assert len(server.seen.asked(DRAWS)) == 1
    [called] = await engine.sample([asked])
    assert [one.tokens for one in got] == [one.tokens for one in called]


@pytest.mark.parametrize("kind", ["vllm", "openai"])
@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("breaks off", "broke off in the middle"),
        ("ends", "broke off in the middle"),
        ("fails", "out of memory"),
    ],
)
async def test_a_stream_that_fails_in_the_middle_is_an_error_and_not_asked_for_again(
    then: str, words: str, kind: str, server: Running, opened: Opened
):
    engine = opened(kind)
    server.seen.bodies.clear()
    behave(server, events=4, then=then)
    with pytest.raises(EngineError, match=words):
        await streamed(engine, request(engine))
    assert len(server.seen.asked(DRAWS)) == 1


async def test_a_stream_that_has_not_begun_is_asked_for_again(server: Running, opened: Opened):
    engine = opened("vllm")
    behave(server, busy=[503, 429])
    got = await streamed(engine, request(engine))
    assert len(got) == 3


async def test_a_response_beyond_its_budget_or_of_unknown_number_is_an_error(
    server: Running, opened: Opened
):
    engine = opened("vllm")
    behave(server, exceeds=3)
    with pytest.raises(EngineError, match="where 12 were allowed"):
        await streamed(engine, request(engine, slots=(0,)))
    behave(server, exceeds=0, misses=1)
    with pytest.raises(EngineError, match="before all 3 responses had"):
        await streamed(engine, request(engine))


async def test_whoever_leaves_a_stream_closes_its_connection(server: Running, opened: Opened):
    engine = opened("vllm")
    behave(server, events=4, then="hangs")
    increments = engine.stream(request(engine))
    await anext(increments)
    await increments.aclose()
    await _until_abandoned(server, 1)
    task = asyncio.ensure_future(streamed(engine, request(engine)))
    async with asyncio.timeout(30):
        while server.seen.waiting < 2:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await _until_abandoned(server, 2)


async def test_closing_the_engine_fails_a_stream_under_way(server: Running, opened: Opened):
    engine = opened("vllm")
    behave(server, events=4, then="hangs")
    task = asyncio.ensure_future(streamed(engine, request(engine)))
    async with asyncio.timeout(30):
        while not server.seen.waiting:
            await asyncio.sleep(0.01)
    engine.close()
    with pytest.raises(EngineError, match="closed while a call was under way"):
        await task


async def test_what_cannot_be_drawn_is_refused_before_the_stream(opened: Opened):
    engine = opened("vllm")
    with pytest.raises(BadInput, match="no tokens"):
        await streamed(engine, request(engine, prompt=()))


@dataclass(frozen=True, slots=True)
class Sent:
    """A connection that sends these events."""

    sent: Sequence[dict[str, Any]]
    url: str = "http://sglang"

    async def events(
        self, path: str, body: dict[str, Any], event: type[Generated]
    ) -> AsyncGenerator[Generated, None]:
        assert path == "/generate"
        assert body["stream"]
        for one in self.sent:
            yield event.model_validate(one)


def sglang_event(ids: Sequence[int], total: int, reason: Any = None, ahead: int = 0) -> Any:
    entries = [(-0.5, token, None) for token in ids]
    meta = {"output_token_logprobs": entries, "completion_tokens": total, "finish_reason": reason}
    return {"output_ids": [*ids, *range(90, 90 + ahead)], "meta_info": meta, "index": 1}


@pytest.mark.parametrize(
    "sent",
    [
        [sglang_event([5], 1), sglang_event([5, 6], 2, ahead=1), sglang_event([5, 6, 7], 3, {})],
        [sglang_event([5], 1), sglang_event([6], 2), sglang_event([7], 3, {"type": "stop"})],
    ],
    ids=["whole", "incremental"],
)
async def test_events_of_sglang_are_read_whether_they_repeat_what_was_sent_or_not(sent: Any):
    connection: Any = Sent(sent)
    dialect = SglangDialect(
        connection=connection, model="m", end_ids=(), seeded=False, shares_prefix=False
    )
    draw = DrawRequest(context=(1,), n=2, max_tokens=9, sampling=Sampling(), seed=1)
    tokens: list[int] = []
    ended = False
    async for part in dialect.stream(draw):
        assert part.index == 1
        assert part.drawn.logprobs is not None
        assert len(part.drawn.logprobs) == len(part.drawn.tokens)
        tokens[part.start :] = part.drawn.tokens
        ended = part.ended
    assert tokens == [5, 6, 7]
    assert ended


async def test_a_response_that_sglang_gives_up_is_an_error():
    connection: Any = Sent([sglang_event([5], 1, {"type": "abort", "message": "no memory left"})])
    dialect = SglangDialect(
        connection=connection, model="m", end_ids=(), seeded=False, shares_prefix=False
    )
    draw = DrawRequest(context=(1,), n=2, max_tokens=9, sampling=Sampling(), seed=1)
    with pytest.raises(EngineError, match="no memory left"):
        [part async for part in dialect.stream(draw)]


async def _until_abandoned(server: Running, times: int) -> None:
    async with asyncio.timeout(30):
        while server.seen.abandoned < times:
            await asyncio.sleep(0.01)
