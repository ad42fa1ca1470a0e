"""What goes wrong with servers: each fault is an error that says so, and none is an answer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.http import engine as engine_module
from preftilt.engines.http.connection import ATTEMPTS
from preftilt.engines.open import open_engine
from preftilt.errors import BadInput, EngineError, UnknownModel
from preftilt.types import Sampling, Stream
from tests.engine_http.conftest import Opened, Running

SECRET = "sk-do-not-tell-anybody"


async def test_a_server_that_hangs_is_given_up_at_the_deadline(server: Running, opened: Opened):
    server.manners.hang = True
    with pytest.raises(EngineError, match=r"did not answer within 1\.5 s.*--timeout"):
        opened(timeout=1.5)
    await _until(lambda: server.seen.abandoned == 1)


async def test_cancelling_a_call_ends_its_work_on_the_server(server: Running, opened: Opened):
    engine = opened()
    server.manners.hang = True
    calls: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(engine.sample([_draw(engine, item)])) for item in "abc"
    ]
    calls.append(asyncio.ensure_future(engine.score([_score(engine)])))
    await _until(lambda: server.seen.waiting == 4)
    assert server.seen.abandoned == 0
    for one in calls:
        one.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in results)
    await _until(lambda: server.seen.abandoned == 4)


async def test_one_failure_ends_the_work_of_its_neighbours(server: Running, opened: Opened):
    """Two requests in one call: when the first fails, nobody waits for the second."""
    engine = opened()
    server.manners.hang = True
    first = asyncio.ensure_future(engine.sample([_draw(engine, "a")]))
    await _until(lambda: server.seen.waiting == 1)
    server.manners.busy = [500]
    with pytest.raises(EngineError, match="500"):
        await engine.sample([_draw(engine, "b"), _draw(engine, "c")])
    await _until(lambda: server.seen.abandoned == server.seen.waiting - 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_closing_fails_what_is_under_way_and_what_comes_after(
    server: Running, opened: Opened
):
    engine = opened()
    server.manners.hang = True
    call = asyncio.ensure_future(engine.sample([_draw(engine)]))
    await _until(lambda: server.seen.waiting == 1)
    engine.close()
    with pytest.raises(EngineError, match="closed while"):
        await call
    with pytest.raises(EngineError, match="is closed"):
        await engine.sample([_draw(engine)])
    engine.close()


async def test_a_reset_connection_is_an_error_and_not_tried_again(server: Running, opened: Opened):
    engine = opened()
    server.manners.reset = True
    before = server.seen.tries
    with pytest.raises(EngineError, match="broke off in the middle"):
        await engine.sample([_draw(engine)])
    assert server.seen.tries == before + 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_asked_again(status: int, server: Running, opened: Opened):
    engine = opened()
    server.manners.busy = [status, status]
    before = server.seen.tries
    [drawn] = await engine.sample([_draw(engine)])
    assert len(drawn) == 2
    assert server.seen.tries == before + 3


async def test_a_busy_server_is_left_alone_for_as_long_as_it_says(server: Running, opened: Opened):
    engine = opened()
    server.manners.busy = [503]
    server.manners.retry_after = "0.4"
    began = time.monotonic()
    await engine.sample([_draw(engine)])
    assert time.monotonic() - began >= 0.4


async def test_a_server_that_stays_busy_is_given_up(server: Running, opened: Opened):
    engine = opened()
    server.manners.busy = [503] * 20
    before = server.seen.tries
    with pytest.raises(EngineError, match="answered 503: busy"):
        await engine.sample([_draw(engine)])
    assert server.seen.tries == before + ATTEMPTS


@pytest.mark.parametrize("status", [400, 404, 500, 502, 504])
async def test_other_errors_are_not_tried_again(status: int, server: Running, opened: Opened):
    engine = opened()
    server.manners.busy = [status]
    before = server.seen.tries
    with pytest.raises(EngineError, match=f"answered {status}: busy"):
        await engine.sample([_draw(engine)])
    assert server.seen.tries == before + 1


def test_nobody_listening_is_an_error_that_asks_whether_the_server_runs(server: Running):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with pytest.raises(EngineError, match=r"cannot be reached.*is the server running"):
        open_engine(f"vllm+http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("junk", "message"),
    [
        (b"<html>Bad gateway</html>", "something else than Completions: Invalid JSON"),
        (b"", "something else than Completions"),
        (b"[1, 2]", "something else than Completions"),
        (b'{"model": "toy"}', "choices: Field required"),
        (b'{"model": "toy", "choices": [{"index": 0, "text": 5}]}', r"choices\.0\.text"),
        (b'{"model": "toy", "choices": []}', "0 responses where 2 were asked"),
        (b'{"model": "toy", "choices": [{"index": 0, "text": ""}]}', "left out token ids"),
    ],
)
async def test_junk_is_named(junk: bytes, message: str, server: Running, opened: Opened):
    engine = opened()
    server.manners.junk = junk
    with pytest.raises(EngineError, match=message):
        await engine.sample([_draw(engine)])


@pytest.mark.parametrize("lie", ["rank 1", "shifted", "positive", "missing", "not a number"])
@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_lies_about_scores_are_found_out_before_they_are_used(
    kind: str, lie: str, server: Running, opened: Opened
):
    server.manners.lie = lie  # type: ignore[assignment]
    with pytest.raises((BadInput, EngineError)):
        opened(kind)


def test_log_probs_of_drawing_that_contradict_the_scores_are_refused(
    server: Running, opened: Opened
):
    server.manners.lie = "off"
    with pytest.raises(BadInput, match=r"contradicts itself.*--scorer"):
        opened()


async def test_a_lie_that_begins_later_is_found_out_too(server: Running, opened: Opened):
    engine = opened()
    server.manners.lie = "shifted"
    with pytest.raises(EngineError, match="shifted by one"):
        await engine.score([_score(engine)])


async def test_another_model_under_another_name_is_noticed(
    server: Running, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine = opened()
    server.manners.model = "other"
    with pytest.raises(EngineError, match="the model other where toy was asked"):
        await engine.sample([_draw(engine)])
    server.manners.model, server.manners.models = "toy", ("other",)
    monkeypatch.setattr(engine_module, "RECHECK_SECONDS", 0.0)
    with pytest.raises(EngineError, match="no longer serves toy"):
        await engine.sample([_draw(engine)])


async def test_other_weights_under_the_same_name_are_noticed(
    server: Running, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine = opened()
    monkeypatch.setattr(engine_module, "RECHECK_SECONDS", 0.0)
    await engine.sample([_draw(engine)])
    server.manners.weights = 1
    with pytest.raises(EngineError, match="other weights behind the name toy"):
        await engine.score([_score(engine)])
    with pytest.raises(EngineError, match="other weights"):
        await engine.sample([_draw(engine)])


async def test_the_key_comes_from_the_environment_and_is_told_to_nobody_else(
    server: Running, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    server.manners.key = SECRET
    with pytest.raises(EngineError, match="PREFTILT_API_KEY, which is not set"):
        opened()
    monkeypatch.setenv("PREFTILT_API_KEY", SECRET + "-wrong")
    with pytest.raises(EngineError, match="is set, but refused") as failure:
        opened()
    assert SECRET not in str(failure.value)  # Though the server repeats it.
    monkeypatch.setenv("MY_KEY", SECRET)
    engine = opened(api_key_env="MY_KEY")
    await engine.sample([_draw(engine)])
    assert SECRET not in repr(vars(engine))
    assert SECRET not in repr((engine.name, engine.versions))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("vllm+http://user:pass@127.0.0.1:1", "no user name or password"),
        ("vllm+http://", "no model is named"),
        ("vllm+http:///v1", "no server's URL"),
        ("vllm+http://127.0.0.1:1/?key=1", "query"),
        ("abacus+http://127.0.0.1:1", "no engine"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str, message: str):
    with pytest.raises(BadInput, match=message) as failure:
        open_engine(url)
    assert "pass@" not in str(failure.value)


def test_several_models_need_a_name(server: Running, opened: Opened):
    server.manners.models = ("toy", "other")
    with pytest.raises(BadInput, match=r"serves toy, other; name one"):
        opened()
    with pytest.raises(UnknownModel, match="does not serve third"):
        opened(served_model="third")
    assert opened(served_model="toy").model == "toy"


async def test_engines_serve_callers_on_several_event_loops(server: Running, opened: Opened):
    engine = opened()

    def from_another_thread() -> int:
        [drawn] = asyncio.run(engine.sample([_draw(engine)]))
        return len(drawn)

    found = await asyncio.gather(*(asyncio.to_thread(from_another_thread) for _ in range(3)))
    assert found == [2, 2, 2]


def _draw(engine: Engine, item: str = "") -> SampleRequest:
    return SampleRequest(
        prompt=engine.tokenizer.encode("Name a way to relax."),
        slots=(0, 1),
        stream=Stream(1, item),
        sampling=Sampling(),
        max_tokens=8,
    )


def _score(engine: Engine) -> ScoreRequest:
    encode = engine.tokenizer.encode
    return ScoreRequest(prompt=encode("Name a way to relax."), completion=encode("Read"))


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)
