"""Replicas as one engine: the contract, who gets what, and that nothing is lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import aclosing

import pytest

from preftilt.api import Realigner, Settings
from preftilt.engines.base import (
    Engine,
    GuidedView,
    GuideRequest,
    Partial,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
)
from preftilt.engines.replicas import Replicas, open_replicas
from preftilt.engines.replicas.replica import WatchIntervals
from preftilt.errors import BadInput, EngineError, EngineTimeout, PromptTooLong
from preftilt.messages import Message
from preftilt.search import DVTS, BestOfN
from preftilt.testing.contract import EngineLaws
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from preftilt.types import Preference, Sampling, Stream, Tokens
from tests.replicas.conftest import QUICK, Together
from tests.replicas.machines import Machine

ASKED = [Message("user", "How do I study maths?")]
WISH = [Preference("No games.")]
PROMPTS = [(i % 12, i // 12, 3, 4) for i in range(20)]


class TestReplicas(EngineLaws):
    @pytest.fixture
    def engine(self, machines: list[Machine], together: Together) -> Engine:
        return together(machines)

    @pytest.fixture
    def tolerance(self) -> float:
        return 1e-9


@pytest.mark.parametrize("search", [BestOfN(n=8), DVTS(subtrees=2, width=3)])
async def test_a_request_is_answered_as_by_one_engine(
    search, machines: list[Machine], together: Together
):
    settings = Settings(lam=4.0, search=search, max_tokens=16)
    alone = await Realigner(ToyEngine(), settings).realign(ASKED, WISH)
    shared = await Realigner(together(machines), settings).realign(ASKED, WISH)
    assert shared.to_json()["candidates"] == alone.to_json()["candidates"]
    assert shared.engine == "m0,m1,m2,m3"
    assert shared.model == alone.model


async def test_all_requests_of_a_prompt_go_to_one_replica(
    machines: list[Machine], together: Together
):
    """Steps of a tree, and scores under the prompt they were drawn from, find its cache."""
    engine = together(machines)
    settings = Settings(search=DVTS(subtrees=3, width=2), max_tokens=24)
    await Realigner(engine, settings).realign(ASKED, WISH)
    places: dict[Tokens, set[str]] = {}
    for one in machines:
        for prompt in one.prompts:
            places.setdefault(prompt, set()).add(one.name)
    assert len(places) == 2
    assert all(len(names) == 1 for names in places.values())
    assert sum(len(one.prompts) for one in machines) > 4


async def test_a_stream_that_has_not_begun_is_another_replica_s(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    for machine in machines[:2]:
        machine.failure = EngineError("no memory left")
    for prompt in PROMPTS:
        [called] = await ToyEngine().sample([_draw(prompt)])
        partials = await _streamed(engine, _draw(prompt))
        assert [tuple(one.tokens) for one in partials] == [one.tokens for one in called]


async def test_a_stream_that_breaks_off_is_an_error_and_not_begun_anew(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    for machine in machines:
        machine.increments = 3
    with pytest.raises(EngineError, match="broke off in the middle of a stream"):
        await _streamed(engine, _draw(PROMPTS[0]))
    assert sum(len(machine.prompts) for machine in machines) == 1


async def _streamed(engine: Replicas, request: SampleRequest) -> list[Partial]:
    partials = {slot: Partial() for slot in request.slots}
    async with aclosing(engine.stream(request)) as increments:
        async for increment in increments:
            partials[increment.slot].take(increment)
    return [*partials.values()]


async def test_prompts_of_one_call_are_shared_out_and_come_back_in_order(
    machines: list[Machine], together: Together
):
    requests = [_draw(prompt) for prompt in PROMPTS]
    alone = await ToyEngine().sample(requests)
    shared = await together(machines).sample(requests)
    assert [[one.tokens for one in drawn] for drawn in shared] == [
        [one.tokens for one in drawn] for drawn in alone
    ]
    assert all(one.prompts for one in machines)


async def test_a_replica_with_more_than_its_share_is_passed_over(
    machines: list[Machine], together: Together
):
    for one in machines:
        one.pause = 0.2
    engine = together(machines, free=2)
    calls = [asyncio.ensure_future(engine.sample([_draw(PROMPTS[0], 1)])) for _ in range(16)]
    await _until(lambda: sum(status.load for status in engine.replica_statuses) == 16)
    assert max(status.load for status in engine.replica_statuses) <= 5
    await asyncio.gather(*calls)
    assert [status.load for status in engine.replica_statuses] == [0, 0, 0, 0]


async def test_nothing_is_lost_when_a_replica_dies_under_load(
    machines: list[Machine], together: Together
):
    for one in machines:
        one.pause = 0.1
    engine = together(machines)
    calls = [asyncio.ensure_future(engine.sample([_draw(prompt)])) for prompt in PROMPTS]
    await _until(lambda: sum(len(one.prompts) for one in machines) == len(PROMPTS))
    assert machines[1].prompts
    machines[1].on = False
    found = await asyncio.gather(*calls)
    for prompt, [drawn] in zip(PROMPTS, found, strict=True):
        [alone] = await ToyEngine().sample([_draw(prompt)])
        assert [one.tokens for one in drawn] == [one.tokens for one in alone]
    assert _standing(engine, "m1").failed
    assert not _standing(engine, "m1").up


async def test_work_leaves_a_replica_that_has_gone_deaf(
    machines: list[Machine], together: Together
):
    """It breaks nothing off and says nothing: only asking whether it is there tells."""
    engine = together(machines)
    prompt = _prompt_at(engine, machines, "m2")
    machines[2].deaf = True
    [drawn] = await engine.sample([_draw(prompt)])
    assert len(drawn) == 2
    assert machines[2].cancelled == 1
    assert "no answer within 0.1 s" in _standing(engine, "m2").reason


async def test_a_replica_that_answers_again_gets_its_prompts_back(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    prompt = _prompt_at(engine, machines, "m3")
    machines[3].on = False
    await engine.sample([_draw(prompt)])
    await _until(lambda: not _standing(engine, "m3").up)
    machines[3].on = True
    await _until(lambda: _standing(engine, "m3").up)
    machines[3].prompts.clear()
    await engine.sample([_draw(prompt)])
    assert machines[3].prompts == [prompt]
    assert machines[3].opened == 2


async def test_a_replica_with_another_model_stays_out_until_it_has_the_right_one(
    machines: list[Machine], together: Together, caplog: pytest.LogCaptureFixture
):
    engine = together(machines)
    machines[0].on = False
    await _until(lambda: not _standing(engine, "m0").up)
    machines[0].toy = ToyEngine(next_logprobs=hashed_bigrams(99))
    machines[0].on = True
    await _until(lambda: "weights are others" in _standing(engine, "m0").reason)
    assert not _standing(engine, "m0").up
    assert "m0 stays out" in caplog.text
    machines[0].toy = ToyEngine(max_context=100)
    await _until(lambda: "context is 100 tokens" in _standing(engine, "m0").reason)
    machines[0].toy = ToyEngine()
    await _until(lambda: _standing(engine, "m0").up)


async def test_with_all_replicas_dead_a_call_fails_at_once_and_says_so(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    for one in machines:
        one.on = False
    await _until(lambda: not any(status.up for status in engine.replica_statuses))
    with pytest.raises(EngineError, match="none of the 4 replicas answers: m0") as failure:
        await engine.score([ScoreRequest(prompt=(1, 2), completion=(3,))])
    assert "secret" not in str(failure.value)
    machines[2].on = True
    await _until(lambda: any(status.up for status in engine.replica_statuses))
    assert len(await engine.score([ScoreRequest(prompt=(1, 2), completion=(3,))])) == 1


async def test_a_request_that_fails_everywhere_is_given_to_three_replicas_and_harms_none(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    for one in machines:
        one.failure = EngineError("I cannot do that")
    with pytest.raises(EngineError, match="I cannot do that"):
        await engine.sample([_draw(PROMPTS[0])])
    assert sum(len(one.prompts) for one in machines) == 3
    for one in machines:
        one.failure = None
    await _until(lambda: all(not status.reason for status in engine.replica_statuses))
    assert all(one.opened == 1 for one in machines)


async def test_a_replica_where_everything_fails_is_lost_though_it_answers(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    prompt = _prompt_at(engine, machines, "m1")
    machines[1].failure = EngineError("no memory left")
    for _ in range(3):
        await engine.sample([_draw(prompt)])
        await asyncio.sleep(0.05)
    assert _standing(engine, "m1").failed == 3
    assert not _standing(engine, "m1").up


async def test_a_request_that_takes_too_long_is_not_given_to_another(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    prompt = _prompt_at(engine, machines, "m1")
    machines[1].failure = EngineTimeout("not within 9 s")
    for _ in range(4):
        with pytest.raises(EngineTimeout, match="not within 9 s"):
            await engine.sample([_draw(prompt)])
    assert [len(one.prompts) for one in machines] == [0, 4, 0, 0]
    assert _standing(engine, "m1").up


async def test_what_cannot_be_asked_is_refused_and_moves_nowhere(
    machines: list[Machine], together: Together
):
    machines[3].toy.max_context = 40
    engine = together(machines)
    assert engine.capabilities.max_context == 40
    with pytest.raises(PromptTooLong, match="41 tokens, 1 more than the 40 that all replicas"):
        await engine.sample([_draw((1,) * 40)])
    machines[0].failure = BadInput("no such thing")
    with pytest.raises(BadInput, match="no such thing"):
        await engine.sample([_draw(_prompt_at(engine, machines, "m0"))])
    assert _standing(engine, "m0").up


async def test_no_response_is_longer_than_any_replica_could_draw(
    machines: list[Machine], together: Together
):
    machines[3].toy.max_context = 13
    engine = together(machines)
    drawn = await engine.sample([_draw(prompt) for prompt in PROMPTS])
    assert max(len(one.tokens) for row in drawn for one in row) == 9


def test_capabilities_are_what_all_can_do(machines: list[Machine], together: Together):
    machines[1].toy.sampler_logprobs = False
    engine = together(machines)
    assert not engine.capabilities.sampler_logprobs
    assert engine.capabilities.keyed_streams
    assert engine.versions == {"toy": "1", "machine": "m0, m1, m2, m3"}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (ToyEngine(model="tiny"), "it serves tiny, not toy"),
        (ToyEngine(next_logprobs=hashed_bigrams(1)), "its weights are others"),
    ],
)
def test_engines_that_hold_different_models_are_refused(
    other: ToyEngine, difference: str, machines: list[Machine]
):
    machines[2].toy = other
    with pytest.raises(BadInput, match=f"m2 is no replica of m0: .*{difference}"):
        open_replicas({one.name: one.open for one in machines}, QUICK)


async def test_a_replica_that_is_down_at_opening_joins_when_it_answers(
    machines: list[Machine], together: Together
):
    machines[0].on = False
    engine = together(machines)
    assert [status.up for status in engine.replica_statuses] == [False, True, True, True]
    assert "m0 cannot be reached" in _standing(engine, "m0").reason
    machines[0].on = True
    await _until(lambda: _standing(engine, "m0").up)


async def test_a_replica_that_cannot_be_compared_is_not_used(
    machines: list[Machine], together: Together
):
    machines[0].failure = EngineError("no memory left")
    engine = together(machines)
    assert not _standing(engine, "m0").up
    machines[0].failure = None
    await _until(lambda: _standing(engine, "m0").up)


def test_no_replica_at_all_is_an_error_that_names_them(machines: list[Machine]):
    for one in machines:
        one.on = False
    with pytest.raises(EngineError, match=r"none of the 4 replicas answers: m0 cannot.*m3 cannot"):
        open_replicas({one.name: one.open for one in machines}, QUICK)


async def test_cancelling_a_call_cancels_it_at_its_replica(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    for one in machines:
        one.pause = 60
    call = asyncio.ensure_future(engine.sample([_draw(PROMPTS[0])]))
    await _until(lambda: any(one.prompts for one in machines))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await _until(lambda: sum(one.cancelled for one in machines) == 1)
    await asyncio.sleep(0.05)
    assert all(status.up and not status.failed for status in engine.replica_statuses)


async def test_guided_requests_are_shared_out_like_others(
    machines: list[Machine], together: Together
):
    engine = together(machines)
    assert engine.capabilities.guides
    assert engine.capabilities.proposes
    guided = [
        GuideRequest(
            views=(GuidedView(prompt, 2.0), GuidedView((5, 5, 5, 5), -1.0)),
            slots=(0, 1),
            stream=Stream(1),
            sampling=Sampling(),
            max_tokens=8,
        )
        for prompt in PROMPTS
    ]
    shared, alone = await engine.guide(guided), await ToyEngine().guide(guided)
    assert [one.tokens for row in shared for one in row] == [
        one.tokens for row in alone for one in row
    ]
    asked = [ProposeRequest(prompt=prompt, count=3) for prompt in PROMPTS]
    proposed = await engine.propose(asked)
    assert [one.tokens for one in proposed] == [
        one.tokens for one in await ToyEngine().propose(asked)
    ]
    assert all(len(one.prompts) > 1 for one in machines)


async def test_closing_fails_what_is_under_way(machines: list[Machine], together: Together):
    engine = together(machines)
    for one in machines:
        one.pause = 60
    call = asyncio.ensure_future(engine.sample([_draw(PROMPTS[0])]))
    await _until(lambda: any(one.prompts for one in machines))
    engine.close()
    with pytest.raises(EngineError, match="closed while"):
        await call
    with pytest.raises(EngineError, match="is closed"):
        await engine.sample([_draw(PROMPTS[0])])


async def test_progress_within_a_call_is_the_replica_s(machines: list[Machine], together: Together):
    engine = together(machines)
    request = _draw(PROMPTS[0])
    assert engine.progress(request) == 0
    await engine.sample([request])
    assert engine.progress(request) == 7


async def test_an_engine_that_opens_after_it_was_given_up_is_closed(machines: list[Machine]):
    late: list[Engine] = []
    patience = WatchIntervals(
        between_pings=0.02,
        ping_timeout=0.1,
        first_retry=0.01,
        longest_retry=0.01,
        open_timeout=0.05,
    )

    def slow() -> Engine:
        import time

        if machines[1].opened:
            time.sleep(0.2)
        late.append(machines[1].open())
        return late[-1]

    engine = open_replicas({"m0": machines[0].open, "m1": slow}, patience)
    try:
        machines[1].deaf = True
        await _until(lambda: "opened within 0.05 s" in _standing(engine, "m1").reason)
        await _until(lambda: len(late) > 1 and getattr(late[1], "closed", False))
    finally:
        engine.close()


def _prompt_at(engine: Replicas, machines: list[Machine], name: str) -> Tokens:
    """A prompt that belongs to the machine."""
    from preftilt.engines.replicas.engine import rank_replicas

    names = [one.name for one in machines]
    return next(prompt for prompt in PROMPTS if rank_replicas(prompt, names)[0] == name)


def _standing(engine: Replicas, name: str):
    return next(status for status in engine.replica_statuses if status.name == name)


def _draw(prompt: Tokens, slots: int = 2) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        slots=tuple(range(slots)),
        stream=Stream(3, re.sub(r"\D", "", str(prompt))),
        sampling=Sampling(),
        max_tokens=10,
    )


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)
