"""Cancelling, failing, closing, and many event loops."""

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest
from torch import Tensor

from preftilt.engines.transformers import TransformersEngine, open_transformers
from preftilt.engines.transformers.extend import ExtendPlan
from preftilt.errors import EngineError
from tests.engine.asking import draw, prompt, request, score, tokens
from tests.engine.conftest import Opened, Saved
from tests.engine.models import END_ID

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


def fail_on(engine: TransformersEngine, doing: str, marked: int, patch: pytest.MonkeyPatch) -> None:
    """Stands in for what no small model does by itself: forwards with the token ``marked`` in them fail."""
    real = getattr(engine._runner, doing)

    def fail(plan: ExtendPlan, tokens: Tensor, *more: Tensor) -> Tensor:
        if marked in tokens.tolist():
            raise RuntimeError("no room for this one")
        return real(plan, tokens, *more)

    patch.setattr(engine._runner, doing, fail)


async def test_a_failed_prefill_fails_the_requests_of_that_prompt_only(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    good, other, longer = prompt(20), prompt(18, 1), prompt(90, 2)
    bad = (*prompt(15, 3), END_ID)
    alone = [tokens(await draw(opened(), one, 2)) for one in (good, other, longer)]
    engine = opened(prefill_tokens=64)
    fail_on(engine, "logits", END_ID, monkeypatch)
    asked = [request(one, 2) for one in (good, bad, other, longer)]
    scoring = asyncio.ensure_future(score(engine, bad, (1, 2)))
    drawn = await asyncio.gather(*(engine.sample([one]) for one in asked), return_exceptions=True)
    assert [tokens(one[0]) for one in drawn if isinstance(one, list)] == alone
    reason = "prefilling a prompt: no room for this one"
    assert isinstance(drawn[1], EngineError)
    assert reason in str(drawn[1])
    with pytest.raises(EngineError, match=reason):
        await scoring
    assert engine.stats.prompt_tokens == len(good) + len(other) + len(longer)


async def test_a_failed_prefix_fails_its_own_requests_only(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine, question = opened(), prompt(20)
    before = await draw(engine, question, 2, prefix=(5, 6))
    engine.forget()
    fail_on(engine, "logits", END_ID, monkeypatch)
    good, bad = await asyncio.gather(
        draw(engine, question, 2, prefix=(5, 6)),
        draw(engine, question, 2, prefix=(5, END_ID)),
        return_exceptions=True,
    )
    assert isinstance(bad, EngineError)
    assert isinstance(good, list)
    assert tokens(good) == tokens(before)


async def test_a_failed_score_fails_its_own_request_only(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    engine, question = opened(), prompt(20)
    [before] = await score(engine, question, (1, 2, 3))
    fail_on(engine, "logprobs", END_ID, monkeypatch)
    good, bad = await asyncio.gather(
        score(engine, question, (1, 2, 3)),
        score(engine, question, (1, END_ID, 3)),
        return_exceptions=True,
    )
    assert isinstance(bad, EngineError)
    assert isinstance(good, list)
    np.testing.assert_allclose(good[0], before, atol=1e-5)


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
