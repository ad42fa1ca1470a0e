"""What goes into a batch and what is kept, on a stand-in for llama.cpp that refuses every slip."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.llamacpp.batch_tasks import LlamaDrawJob
from preftilt.engines.llamacpp.engine import LlamaCppEngine
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.testing.contract import EngineLaws
from preftilt.types import Completion, Sampling, Step, Stream, Tokens
from tests.engine.turn_law import one_candidate_waits_for_a_turn_of_every_request
from tests.llamacpp.stand_in import CONTEXT, engine, oracle, scheduler, scheduler_of, settled

FULL: Tokens = tuple(1 + i % 11 for i in range(30))
QUESTION: Tokens = tuple(1 + (3 * i + 4) % 11 for i in range(20))


class Opened:
    """Engines of a test, closed when it is over."""

    def __init__(self) -> None:
        self.engines: list[LlamaCppEngine] = []

    def __call__(self, **sizes: Any) -> LlamaCppEngine:
        self.engines.append(engine(**sizes))
        return self.engines[-1]


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    for one in made.engines:
        one.close()


def request(prompt: Tokens, slots: range | int, **more: Any) -> SampleRequest:
    named = tuple(slots if isinstance(slots, range) else range(slots))
    settings = {"max_tokens": 12, "stream": Stream(5), "sampling": Sampling(), **more}
    return SampleRequest(prompt=prompt, slots=named, **settings)


async def draw(where: Any, prompt: Tokens, slots: range | int, **more: Any) -> list[Completion]:
    [drawn] = await where.sample([request(prompt, slots, **more)])
    return drawn


async def score(where: Any, prompt: Tokens, *completions: Tokens, **more: Any) -> list[np.ndarray]:
    return await where.score(
        [ScoreRequest(prompt=prompt, completion=one, **more) for one in completions]
    )


SIZES = [
    {},
    {"batch": 16, "outputs": 16},
    {"cells": CONTEXT, "sequences": 3, "max_rows": 1, "batch": 7, "outputs": 2},
    {"cells": 160, "sequences": 8, "max_rows": 4, "kept": 1},
]


class TestRoom(EngineLaws):
    """However little of it there is."""

    @pytest.fixture(scope="class", params=SIZES, ids=str)
    @classmethod
    def engine(cls, request: pytest.FixtureRequest) -> Iterator[LlamaCppEngine]:
        opened = engine(**request.param)
        yield opened
        opened.close()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
async def test_tokens_and_log_probs_equal_the_reference_engines(sizes: dict, opened: Opened):
    ours, exact = opened(**sizes), oracle()
    for sampling in (Sampling(), Sampling(temperature=0.7, top_k=4, top_p=0.8)):
        found = await draw(ours, FULL, 9, sampling=sampling)
        wanted = await draw(exact, FULL, 9, sampling=sampling)
        assert [one.tokens for one in found] == [one.tokens for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-6)
    completions = [one.tokens for one in found]
    for one, other in zip(
        await score(ours, QUESTION, *completions),
        await score(exact, QUESTION, *completions),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


async def test_a_prompt_is_forwarded_once_and_a_response_token_once_a_view(opened: Opened):
    ours = opened()
    drawn = await draw(ours, FULL, 8)
    await score(ours, QUESTION, *(one.tokens for one in drawn))
    await score(ours, FULL, (1, 2))
    responses = sum(len(one.tokens) - 1 for one in drawn)
    assert ours.stats.forwarded == len(FULL) + len(QUESTION) + 2 * responses + 1
    assert ours.stats.drawn == ours.stats.scored - 2 == responses + 8


async def test_a_tree_forwards_no_token_twice_under_the_same_view(opened: Opened):
    """DVTS 4×4: of every child all tokens but the last, and the last of those that grow on, once a view."""
    ours, forwarded = opened(sequences=256), 0

    async def subtree(number: int) -> None:
        nonlocal forwarded
        prefix: Tokens = ()
        for _ in range(3):
            forwarded += bool(prefix)
            slots = range(4 * number, 4 * number + 4)
            children = await draw(ours, FULL, slots, prefix=prefix, max_tokens=8, keep=True)
            completions = [one.tokens for one in children]
            await score(ours, QUESTION, *completions, prefix=prefix, keep=True)
            forwarded += sum(len(one) - 1 for one in completions)
            prefix += completions[-1]

    await asyncio.gather(*(subtree(number) for number in range(4)))
    # Children that begin alike may share more than their parent; never less.
    assert ours.stats.forwarded <= len(FULL) + len(QUESTION) + 2 * forwarded
    assert ours.stats.forwarded >= len(FULL) + len(QUESTION) + forwarded


async def test_requests_share_the_beginnings_of_their_prompts(opened: Opened):
    ours = opened()
    await draw(ours, FULL, 1, max_tokens=1)
    await draw(ours, FULL[:25] + QUESTION, 1, max_tokens=1)
    assert ours.stats.forwarded == len(FULL) + len(QUESTION)


async def test_rows_of_different_requests_share_batches(opened: Opened):
    ours = opened(max_rows=32)
    requests = [request(FULL[: 10 + i], 2, stream=Stream(1, str(i))) for i in range(8)]
    drawn = await ours.sample(requests)
    longest = max(len(one.tokens) for each in drawn for one in each)
    prompts = sum(len(one.prompt) for one in requests)
    assert ours.stats.calls <= longest + prompts // scheduler_of(ours).context.settings.batch + 1


async def test_prompts_are_not_read_long_before_there_is_room_for_their_rows(opened: Opened):
    """Else what was read first would be dropped again before its turn."""
    ours = opened(max_rows=2, kept=60)
    requests = [request(FULL[i:], 2, stream=Stream(1, str(i))) for i in range(10)]
    await ours.sample(requests)
    responses = ours.stats.drawn - 20
    assert ours.stats.forwarded == sum(len(one.prompt) for one in requests) + responses


def test_one_candidate_waits_for_a_turn_of_every_request_not_for_all_their_candidates():
    crowd = [LlamaDrawJob(request(FULL[i:], 64, stream=Stream(1, str(i)))) for i in range(6)]
    late, again = (LlamaDrawJob(request(QUESTION, 1)) for _ in range(2))
    other = scheduler()
    other.add([again])
    while not other.idle:
        other.step()
    [alone] = again.future.result()
    one_candidate_waits_for_a_turn_of_every_request(scheduler(), crowd, late, alone.tokens)


async def test_nothing_but_what_is_kept_stays_behind(opened: Opened):
    ours = opened()
    drawn = await draw(ours, FULL, 6)
    await score(ours, QUESTION, *(one.tokens for one in drawn))
    await settled(ours)
    scheduler = scheduler_of(ours)
    held = len(FULL) + len(QUESTION)
    assert scheduler.context.settings.cells - len(scheduler.pool.free_cells) == held
    assert len(scheduler.context.tokens) == held  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_cancelled_call_gives_its_rows_back(opened: Opened):
    ours = opened()
    before = await score(ours, FULL, QUESTION)
    task = asyncio.ensure_future(draw(ours, QUESTION, 16, max_tokens=CONTEXT - 20))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    np.testing.assert_array_equal(await score(ours, FULL, QUESTION), before)
    await settled(ours)
    assert not scheduler_of(ours).draw_tasks
    assert len(scheduler_of(ours).pool.free_seq_ids) >= 64 - 3


async def test_a_failed_call_reaches_its_callers_and_the_next_one_works(opened: Opened):
    ours = opened()
    before = await score(ours, FULL, QUESTION)
    context: Any = scheduler_of(ours).context
    context.broken = True
    with pytest.raises(EngineError, match=r"out of memory.*max_rows"):
        await draw(ours, QUESTION, 4)
    context.broken = False
    np.testing.assert_array_equal(await score(ours, FULL, QUESTION), before)


async def test_closing_fails_what_is_under_way_and_gives_the_memory_back(opened: Opened):
    ours = opened()
    task = asyncio.ensure_future(draw(ours, FULL, 16, max_tokens=CONTEXT))
    await asyncio.sleep(0)
    ours.close()
    with pytest.raises(EngineError, match="closed"):
        await task
    with pytest.raises(EngineError, match="closed"):
        await draw(ours, FULL, 1)
    ours.close()
    context: Any = scheduler_of(ours).context
    assert context.closed


async def test_steps_end_at_their_delimiter_and_can_be_continued(opened: Opened):
    ours, exact = opened(), oracle()
    for delimiter in ("\n", "maths", "é"):
        found = await draw(ours, FULL, 8, step=Step(delimiter), max_tokens=30)
        wanted = await draw(exact, FULL, 8, step=Step(delimiter), max_tokens=30)
        assert [(one.tokens, one.finish) for one in found] == [
            (one.tokens, one.finish) for one in wanted
        ]


async def test_progress_can_be_watched(opened: Opened):
    ours = opened()
    asked = request(FULL, 4)
    assert ours.progress(asked) == 0
    [drawn] = await ours.sample([asked])
    assert ours.progress(asked) == 0
    assert ours.stats.drawn == sum(len(one.tokens) for one in drawn)


async def test_a_response_stops_where_the_context_does(opened: Opened):
    prompt = (FULL * 4)[: CONTEXT - 4]
    for one in await draw(opened(), prompt, 8, max_tokens=50):
        assert len(one.tokens) <= 4
        assert one.finish in ("eos", "length")


async def test_what_cannot_be_read_is_refused_before_anything_is_computed(opened: Opened):
    ours = opened()
    with pytest.raises(PromptTooLong, match=f"{CONTEXT + 1} tokens, 1 more than"):
        await draw(ours, (FULL * 4)[:CONTEXT], 1)
    with pytest.raises(BadInput, match="token 99"):
        await score(ours, FULL, (99,))
    with pytest.raises(BadInput, match="no tokens"):
        await draw(ours, (), 1)
    assert await ours.sample([]) == []
    assert await draw(ours, FULL, 0) == []
    [nothing] = await draw(ours, FULL, 1, max_tokens=0)
    assert nothing.tokens == ()
    assert ours.stats.calls == 0
