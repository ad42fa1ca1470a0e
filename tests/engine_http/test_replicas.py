"""Several servers named together, and a server of ours in front of them: what a user types, and what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.replicas import Replicas
from preftilt.errors import BadInput, EngineError, EngineTimeout
from preftilt.testing.contract import EngineLaws
from preftilt.types import Sampling, Stream
from tests.engine.models import byte_tokenizer
from tests.engine_http.conftest import Opened, Running
from tests.engine_http.stand_in import StandIn, served
from tests.server.serving import ask, serving


@pytest.fixture
def second() -> Iterator[Running]:
    app = StandIn(byte_tokenizer())
    with served(app) as url:
        yield Running(app, url)


@pytest.fixture
def pair(server: Running, second: Running, tokenizer_folder: str) -> Iterator[Replicas]:
    spec = f"vllm+{server.url},{second.url.removeprefix('http://')}"
    engine = open_engine(spec, EngineOptions(tokenizer=tokenizer_folder))
    assert isinstance(engine, Replicas)
    server.seen.bodies.clear()
    second.seen.bodies.clear()
    yield engine
    engine.close()


def test_what_a_name_leaves_out_is_as_in_the_first(
    pair: Replicas, server: Running, second: Running, tokenizer_folder: str
):
    assert pair.name == f"vllm+{server.url},vllm+{second.url}"
    assert pair.model == "toy"
    assert [fact.answer for fact in pair.info.facts[:2]] == ["answers", "answers"]
    again = open_engine(pair.name, EngineOptions(tokenizer=tokenizer_folder))
    assert again.name == pair.name
    again.close()


class TestPair(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tokenizer_folder: str) -> Iterator[Engine]:
        with served(StandIn(byte_tokenizer())) as first, served(StandIn(byte_tokenizer())) as other:
            spec = f"vllm+{first},{other.removeprefix('http://')}"
            engine = open_engine(spec, EngineOptions(tokenizer=tokenizer_folder))
            yield engine
            engine.close()


async def test_a_prompt_is_read_by_one_of_them_only(
    pair: Replicas, server: Running, second: Running
):
    encode = pair.tokenizer.encode
    for i in range(24):
        prompt = encode(f"Question number {i}, and some more words")
        [drawn] = await pair.sample([_draw(prompt)])
        requests = [ScoreRequest(prompt=prompt, completion=one.tokens) for one in drawn]
        await pair.score(requests)
    both = []
    for one in (server, second):
        drawn = {tuple(body["prompt"]) for body in one.seen.asked("/v1/completions")}
        assert drawn
        both.append(drawn)
    assert not both[0] & both[1]


async def test_a_server_that_resets_its_connections_loses_no_work(
    pair: Replicas, server: Running, second: Running
):
    encode = pair.tokenizer.encode
    prompts = [encode(f"Question {i}") for i in range(24)]
    before = await pair.sample([_draw(prompt) for prompt in prompts])
    server.manners.reset = True
    after = await pair.sample([_draw(prompt) for prompt in prompts])
    assert [[one.tokens for one in row] for row in after] == [
        [one.tokens for one in row] for row in before
    ]
    assert sum(status.failed for status in pair.replica_statuses) >= 1


def test_servers_with_different_weights_are_refused(
    server: Running, second: Running, tokenizer_folder: str
):
    second.manners.weights = 1
    with pytest.raises(BadInput, match=r"is no replica of .*its weights are others"):
        open_engine(f"vllm+{server.url},{second.url}", EngineOptions(tokenizer=tokenizer_folder))


@pytest.mark.parametrize(
    ("tail", "options", "message"),
    [
        (",", {}, "nothing between two commas"),
        (",http://127.0.0.1:1", {}, "same server twice"),
        (",127.0.0.1:1/", {}, "same server twice"),
        (",user:pass@127.0.0.1:2", {}, "no user name or password"),
        (",127.0.0.1:2", {"dtype": "float16"}, "--dtype does not apply"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(
    tail: str, options: dict, message: str, server: Running
):
    """``server`` is not asked: its fixture makes the tries at an address that nobody answers short."""
    with pytest.raises(BadInput, match=message) as failure:
        open_engine(f"vllm+http://127.0.0.1:1{tail}", EngineOptions(**options))
    assert "pass@" not in str(failure.value)


async def test_whether_a_server_is_there_is_asked_past_all_work(server: Running, opened: Opened):
    engine = opened(max_connections=1)
    server.manners.hang = True
    call = asyncio.ensure_future(engine.sample([_draw(engine.tokenizer.encode("Hello"))]))
    async with asyncio.timeout(5):
        while not server.seen.waiting:
            await asyncio.sleep(0.01)
        await engine.ping()  # type: ignore[attr-defined]
    server.manners.models = ("other",)
    with pytest.raises(EngineError, match="no longer serves toy"):
        await engine.ping()  # type: ignore[attr-defined]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_a_server_that_takes_too_long_is_told_from_one_that_fails(
    server: Running, opened: Opened
):
    engine = _impatient(opened())
    server.manners.hang = True
    with pytest.raises(EngineTimeout, match=r"did not answer within 0\.5 s"):
        await engine.sample([_draw(engine.tokenizer.encode("Hello"))])


def test_a_client_of_ours_gets_504_for_a_slow_server_and_502_for_a_broken_one(
    server: Running, opened: Opened
):
    engine = opened()
    with serving(engine) as ours:
        assert ask(ours).status_code == 200
        _impatient(engine)
        server.manners.hang = True
        late = ask(ours)
        server.manners.hang, server.manners.reset = False, True
        object.__setattr__(engine._dialect.connection, "timeout", 60.0)  # type: ignore[attr-defined]
        broken = ask(ours)
        server.manners.reset, server.manners.busy = False, [503] * 20
        busy = ask(ours)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "engine_timeout")
    assert (broken.status_code, broken.json()["error"]["code"]) == (502, "engine_failed")
    assert busy.status_code == 502


def _impatient(engine: Any) -> Any:
    """Half a second is enough for a test, but not for opening on a busy machine."""
    object.__setattr__(engine._dialect.connection, "timeout", 0.5)
    return engine


def _draw(prompt: tuple[int, ...]) -> SampleRequest:
    return SampleRequest(
        prompt=prompt, slots=(0, 1), stream=Stream(1), sampling=Sampling(), max_tokens=8
    )
