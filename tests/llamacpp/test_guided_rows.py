"""Guided decoding in the batches of the stand-in for llama.cpp: the oracle's tokens, however little room there is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from preftilt.engines.base import GuidedView, GuideRequest, Partial, SampleRequest
from preftilt.engines.llamacpp.engine import LlamaCppEngine
from preftilt.errors import BadInput, PromptTooLong
from preftilt.types import GuidedCompletion, Mask, Reader, Sampling, Step, Stream, Tokens
from tests.llamacpp.stand_in import CONTEXT, engine, oracle, scheduler_of, settled

FULL: Tokens = tuple(1 + i % 11 for i in range(30))
QUESTION: Tokens = tuple(1 + (3 * i + 4) % 11 for i in range(20))
OTHER: Tokens = FULL[:18] + QUESTION[:9]
GREEDY = Sampling(temperature=0)


@pytest.fixture
def opened() -> Iterator[Any]:
    engines: list[LlamaCppEngine] = []

    def open_one(**sizes: Any) -> LlamaCppEngine:
        engines.append(engine(**sizes))
        return engines[-1]

    yield open_one
    for made in engines:
        made.close()


def ask(
    weights: Sequence[float] = (-2.0, 3.0),
    prompts: Sequence[Tokens] = (QUESTION, FULL),
    slots: int = 1,
    max_tokens: int = 12,
    **more: Any,
) -> GuideRequest:
    views = tuple(map(GuidedView, prompts, weights))
    settings: dict[str, Any] = {"stream": Stream(5), "sampling": Sampling()} | more
    return GuideRequest(views=views, slots=tuple(range(slots)), max_tokens=max_tokens, **settings)


async def guide(where: Any, request: GuideRequest) -> list[GuidedCompletion]:
    [drawn] = await where.guide([request])
    return drawn


def same(drawn: Sequence[GuidedCompletion], wanted: Sequence[GuidedCompletion]) -> None:
    for response, other in zip(drawn, wanted, strict=True):
        assert (response.tokens, response.finish) == (other.tokens, other.finish)
        np.testing.assert_allclose(response.logprobs, other.logprobs, atol=1e-6)


REQUESTS = {
    "drawn": ask(slots=5),
    "greedy": ask(sampling=GREEDY),
    "from a nucleus": ask(slots=3, sampling=Sampling(temperature=0.7, top_k=9, top_p=0.8)),
    "of three views": ask((1.0, 0.7, -0.4), (QUESTION, FULL, OTHER), slots=3),
    "of one view": ask((1.0,), (FULL,), slots=3),
    "of one prompt twice": ask((-1.0, 2.0), (FULL, FULL), slots=2),
    "with a prefix": ask(slots=2, prefix=(3, 4, 5)),
    "in steps": ask(slots=4, step=Step("\n"), max_tokens=30),
    "by divergence": ask(slots=3, strength_by="divergence"),
    "masked by the preference": ask(slots=3, mask=Mask(top_p=0.6), preferred=1),
    "masked by the result": ask(slots=3, mask=Mask(top_p=0.6, of="result")),
    "to the end of the context": ask(slots=2, max_tokens=CONTEXT),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_tokens_and_log_probs_are_the_reference_engines(name: str, opened: Any):
    request = REQUESTS[name]
    same(await guide(opened(), request), await guide(oracle(), request))


SIZES = [
    {"batch": 7, "outputs": 4, "max_rows": 4},
    {"cells": 160, "sequences": 8, "max_rows": 4, "kept": 1},
    {"cells": 130, "sequences": 6, "max_rows": 3, "batch": 16, "outputs": 3, "kept": 20},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
async def test_a_crowd_is_drawn_as_each_alone_however_little_room_there_is(
    sizes: dict[str, Any], opened: Any
):
    """Guided requests of several views, plain ones and scores, more than the cells of any of these hold."""
    requests = [
        ask(slots=3, prompts=(QUESTION[i:], FULL[i:]), stream=Stream(i), keep=i % 2 == 0)
        for i in range(6)
    ]
    requests.append(ask((1.0, 0.5, -0.5), (QUESTION, FULL, OTHER), max_tokens=5))
    sampling, stream = Sampling(), Stream(1)
    plain = [
        SampleRequest(
            prompt=OTHER[i:], slots=(0, 1, 2), stream=stream, sampling=sampling, max_tokens=9
        )
        for i in range(4)
    ]
    ours, exact = opened(**sizes), oracle()
    drawn, completions = await asyncio.wait_for(
        asyncio.gather(ours.guide(requests), ours.sample(plain)), 60
    )
    for request, responses in zip(requests, drawn, strict=True):
        same(responses, await guide(exact, request))
    for wanted, got in zip(await exact.sample(plain), completions, strict=True):
        assert [one.tokens for one in got] == [one.tokens for one in wanted]


async def test_the_views_of_a_response_stand_in_the_same_batch_and_prompts_are_read_once(
    opened: Any,
):
    ours = opened()
    drawn = await guide(ours, ask(slots=4))
    tokens = sum(len(response.tokens) - 1 for response in drawn)
    assert ours.stats.forwarded == len(FULL) + len(QUESTION) + 2 * tokens
    assert ours.stats.calls == 1 + max(len(response.tokens) - 1 for response in drawn)
    assert ours.stats.drawn == tokens + 4


async def test_a_stream_has_the_same_tokens_with_the_log_probs_of_every_view(opened: Any):
    ours, request = opened(), ask(slots=3)
    partials = [Partial() for _ in request.slots]
    async for increment in ours.stream(request):
        assert increment.logprobs.shape == (2, len(increment.tokens))
        partials[increment.slot].take(increment)
    same([each.response(request, "length") for each in partials], await guide(ours, request))


async def test_a_cancelled_response_gives_the_rows_of_all_its_views_back(opened: Any):
    ours = opened(cells=200, sequences=8, max_rows=4)
    before = await guide(ours, ask())
    task = asyncio.ensure_future(guide(ours, ask(slots=4, max_tokens=CONTEXT)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(ours)
    same(await guide(ours, ask()), before)
    await settled(ours)
    scheduler = scheduler_of(ours)
    scheduler.forget()
    assert len(scheduler.pool.free_cells) == 200
    assert len(scheduler.pool.free_seq_ids) == 8


@pytest.mark.parametrize(
    ("sizes", "request_", "words"),
    [
        ({"max_rows": 2}, ask((1, 1, -1), (QUESTION, FULL, OTHER)), "--max-rows 3"),
        ({"max_rows": 1}, ask((1.0,), (FULL,)), "--max-rows 2"),
        ({"cells": 100}, ask(max_tokens=26), "may need 102 tokens of key/value cache"),
        ({}, ask((np.inf, 1.0)), "weight is inf"),
    ],
    ids=str,
)
async def test_a_group_for_which_there_is_never_room_is_refused_before_anything_is_computed(
    sizes: dict[str, Any], request_: GuideRequest, words: str, opened: Any
):
    ours = opened(**sizes)
    with pytest.raises(BadInput, match=words):
        await guide(ours, request_)
    assert ours.stats.calls == 0


async def test_views_that_cannot_be_read_are_refused(opened: Any):
    ours = opened()
    with pytest.raises(PromptTooLong):
        await guide(ours, ask(prompts=(QUESTION, FULL * 4)))
    view = GuidedView(FULL, 1.0, Reader("arm", (1.0,)))
    with pytest.raises(BadInput, match="no reward model 'arm' open"):
        await ours.guide(
            [
                GuideRequest(
                    views=(view,), slots=(0,), stream=Stream(0), sampling=GREEDY, max_tokens=1
                )
            ]
        )
    [nothing] = await guide(ours, ask(max_tokens=0))
    assert (nothing.tokens, nothing.logprobs.shape) == ((), (2, 0))
    assert await guide(ours, ask(slots=0)) == []
