"""Progress within a call, told by an engine that can say how far it is."""

from __future__ import annotations

import math

import pytest

from preftilt.engines.base import Engine
from preftilt.reward import Reward
from preftilt.run import OnProgress, Progress, Run, driver
from preftilt.search import BestOfN
from preftilt.server.request_engine import RequestEngine
from preftilt.types import Query, Sampling, Stream, View
from tests.engine.asking import draw, prompt, request
from tests.engine.conftest import Opened

pytestmark = pytest.mark.model


def run_on(engine: Engine, on_progress: OnProgress | None) -> Run:
    views = (View("question", prompt(30, 1), -19.0), View("full", prompt(30), 20.0))
    return Run(
        engine=engine,
        query=Query(prompt=views[1].prompt, views=views, lam=20.0, ratios=(1.0,)),
        sampling=Sampling(),
        reward=Reward(),
        stream=Stream(3),
        max_tokens=100,
        on_progress=on_progress,
    )


async def test_progress_ticks_while_tokens_are_sampled_and_scored(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.001)
    engine = opened(score_tokens=1)
    seen: list[Progress] = []
    run = run_on(engine, seen.append)
    await run.search(BestOfN(n=24))
    sampled, scored = run.usage.sampled, run.usage.scored["question"]
    for totals in ([one.sampled for one in seen], [one.scored for one in seen]):
        assert totals == sorted(totals)
    assert (seen[-1].sampled, seen[-1].scored) == (sampled, scored)
    assert {one.phase for one in seen if 0 < one.sampled < sampled} == {"sampling"}
    assert {one.phase for one in seen if 0 < one.scored < scored} == {"scoring"}


@pytest.mark.parametrize("deadline", [None, math.inf], ids=["whole", "streamed"])
async def test_progress_ticks_through_the_server_s_view_of_an_engine_too(
    deadline: float | None, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.001)
    seen: list[Progress] = []
    view = RequestEngine(opened(score_tokens=1), deadline=deadline)
    run = run_on(view, seen.append)
    await run.search(BestOfN(n=24))
    sampled, scored = run.usage.sampled, run.usage.scored["question"]
    for totals, last in (
        ([one.sampled for one in seen], sampled),
        ([one.scored for one in seen], scored),
    ):
        assert totals == sorted(totals)
        assert totals[-1] == last
        assert any(0 < one < last for one in totals)
    assert view._progress == {}


async def test_whoever_watches_changes_nothing(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.001)
    watched, alone = run_on(opened(), lambda progress: None), run_on(opened(), None)
    ranked = [(await run.search(BestOfN(n=4))).ranked for run in (watched, alone)]
    assert [one.tokens for one in ranked[0]] == [one.tokens for one in ranked[1]]
    assert watched.usage == alone.usage


async def test_a_report_that_fails_fails_the_request_and_leaves_the_engine_usable(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.001)

    def fail(progress: Progress) -> None:
        raise RuntimeError(f"no room to show {progress.phase}")

    engine = opened()
    with pytest.raises(RuntimeError, match="no room to show sampling"):
        await run_on(engine, fail).search(BestOfN(n=4))
    assert await draw(engine, prompt(20))


async def test_nothing_is_known_of_a_request_that_is_not_under_way(opened: Opened):
    engine, asked = opened(), request(prompt(20))
    assert engine.progress(asked) == 0
    await engine.sample([asked])
    assert engine.progress(asked) == 0
