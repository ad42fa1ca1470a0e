"""Cancelling, failing, closing, and many event loops."""

import asyncio
import gc
import threading
import weakref

import pytest

from preftilt.engines.transformers import open_transformers
from preftilt.errors import EngineError
from tests.engine.asking import draw, prompt, score, tokens
from tests.engine.conftest import Opened, Saved

pytestmark = pytest.mark.model


async def test_a_cancelled_call_frees_its_rows(opened: Opened):
    engine = opened(max_rows=4)
    before = await draw(engine, prompt(20), 2, 5)
    task = asyncio.ensure_future(draw(engine, prompt(20, 1), 4, 200))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    forwarded = engine.stats.forwards
    assert tokens(await draw(engine, prompt(20), 2, 5)) == tokens(before)
    assert engine.stats.forwards <= forwarded + 1 + 5


async def test_a_failure_reaches_the_call_it_belongs_to_and_no_other(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine = opened()
    good = prompt(20)
    await draw(engine, good)
    runner = engine._runner
    logprobs = runner.logprobs

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(runner, "logprobs", fail)
    sampling = asyncio.ensure_future(draw(engine, good, 2, 20))
    with pytest.raises(EngineError, match=r"scoring.*out of memory.*max_rows"):
        await score(engine, good, (1, 2, 3))
    await sampling
    monkeypatch.setattr(runner, "logprobs", logprobs)
    assert len((await score(engine, good, (1, 2, 3)))[0]) == 3


@pytest.mark.parametrize("phase", ["prefilling", "drawing"])
async def test_the_worker_survives_a_failed_forward(
    phase: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine = opened()
    if phase == "drawing":
        await score(engine, prompt(20), (1,))
    with monkeypatch.context() as broken:
        broken.setattr(engine._runner, "logits", lambda *_: 1 / 0)
        with pytest.raises(EngineError, match=phase):
            await draw(engine, prompt(20))
    assert await draw(engine, prompt(20))


async def test_closing_fails_what_is_under_way(opened: Opened):
    engine = opened()
    task = asyncio.ensure_future(draw(engine, prompt(20), 4, 230))
    await asyncio.sleep(0.02)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        await task
    with pytest.raises(EngineError, match="closed"):
        await draw(engine, prompt(20))
    engine.close()


def test_calls_from_several_event_loops_and_threads_agree(opened: Opened):
    engine, question = opened(), prompt(20)
    first = tokens(asyncio.run(draw(engine, question, 3)))
    results: list[object] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(tokens(asyncio.run(draw(engine, question, 3))))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [first] * 4


def test_an_engine_nobody_holds_stops_its_thread(saved: Saved):
    engine = open_transformers(saved("qwen2"))
    thread = engine._worker._thread
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    thread.join(timeout=5)
    assert not thread.is_alive()
