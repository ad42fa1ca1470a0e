"""Whatever breaks lockstep, every answer is the one that the rule gives, token for token, and its log-probs too."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch

from preftilt.engines.base import GuidedView, GuideRequest, Increment, Partial
from preftilt.engines.lockstep import groups
from preftilt.engines.lockstep.groups import GroupDrawing
from preftilt.engines.lockstep.limits import RowSemaphore
from preftilt.engines.vocabulary import Vocabulary
from preftilt.errors import EngineError
from preftilt.guided import combine, pick
from preftilt.streams import position_key, stream_key
from preftilt.types import GuidedCompletion, Sampling, Step, Stream, Tokens
from tests.lockstep.simulated import Simulated, model
from tests.lockstep.test_rows import VOCABULARY

pytestmark = pytest.mark.model

EOS = 30
WORDS: Any = type("Words", (), {"pieces": lambda _, tokens: [f" {token}" for token in tokens]})()
KNOWN = Vocabulary(VOCABULARY, (7, 8, 9), frozenset({EOS}), WORDS)
"""Three ids have no text, so that refusals are told from all that is drawn in step."""
WITHOUT_HOLES = Vocabulary(VOCABULARY, (), frozenset({EOS}), WORDS)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "PAUSES", (0.0,))


def request(seed: int, **more: Any) -> GuideRequest:
    """Two or three views, whose prompts have different lengths."""
    generator = np.random.default_rng(seed)
    prompts = [tuple(map(int, generator.integers(0, 30, length))) for length in (5, 17, 9)]
    weights = ((-1.0, 2.0), (-0.5, 1.0, 0.5))[seed % 2]
    views = tuple(GuidedView(prompts[i], weight) for i, weight in enumerate(weights))
    usual: dict[str, Any] = {
        "views": views,
        "slots": (0,),
        "stream": Stream(seed),
        "sampling": Sampling(temperature=0 if seed % 3 else 1.0),
        "max_tokens": 12,
    }
    return GuideRequest(**(usual | more))


def by_hand(
    requested: GuideRequest, slot: int = 0, known: Vocabulary = KNOWN
) -> tuple[Tokens, np.ndarray]:
    """Tokens and log-probs of the answer, by the rule in numpy, one at a time."""
    key, tokens, columns = stream_key(requested.stream, slot), requested.prefix, []
    while len(columns) < requested.max_tokens and tokens[-1:] != (EOS,):
        logits = torch.stack([model(view.prompt + tokens) for view in requested.views])
        raw = torch.log_softmax(logits.double(), -1).numpy()
        possible = raw.copy()
        possible[:, list(known.holes)] = -np.inf
        guided = combine(possible, [view.weight for view in requested.views])
        token = pick(guided, requested.sampling, position_key(key, len(tokens)))
        columns.append(raw[:, token])
        tokens += (token,)
    return tokens[len(requested.prefix) :], np.array(columns).T


async def drawn(
    vllm: Simulated, drawings: list[GroupDrawing], semaphore: RowSemaphore
) -> list[GuidedCompletion]:
    async def draw(drawing: GroupDrawing) -> GuidedCompletion:
        async with semaphore.hold(len(drawing.request.views)):
            return await drawing.draw(vllm.submit)

    tasks = [asyncio.ensure_future(draw(drawing)) for drawing in drawings]
    while not all(task.done() for task in tasks):
        vllm.step()
        assert vllm.happened["steps"] < 20_000
        for _ in range(4):
            await asyncio.sleep(0)
    return [task.result() for task in tasks]


def drawing(requested: GuideRequest, slot: int = 0, **more: Any) -> GroupDrawing:
    return GroupDrawing(requested, slot, KNOWN, 100, **more)


CASES: dict[str, dict[str, Any]] = {
    "nothing": {"rows": 64, "budget": 1000},
    "half-read prompts": {"rows": 64, "budget": 40},
    "full batches": {"rows": 4, "budget": 1000},
    "preemptions": {"rows": 64, "budget": 1000, "preempts": 0.02},
    "aborts": {"rows": 64, "budget": 1000, "aborts": 0.02},
}


@pytest.mark.parametrize("case", CASES)
async def test_what_breaks_lockstep_changes_no_answer(case: str):
    again = 0
    for seed in range(4):
        vllm = Simulated(seed, **CASES[case])
        requests = [request(10 * seed + i) for i in range(8)]
        drawings = [drawing(guide_request) for guide_request in requests]
        answers = await drawn(vllm, drawings, RowSemaphore(1000))
        for guide_request, answer in zip(requests, answers, strict=True):
            tokens, logprobs = by_hand(guide_request)
            assert answer.tokens == tokens
            assert answer.finish == ("eos" if tokens[-1] == EOS else "length")
            np.testing.assert_allclose(answer.logprobs, logprobs, atol=1e-6)
        assert case == "nothing" or vllm.happened[case]
        again += sum(group.attempts for group in drawings) - len(drawings)
    # Groups were asked for again wherever something could part their members, and nowhere else.
    assert (again > 0) == (case != "nothing")


async def test_groups_that_take_seats_first_are_not_in_each_others_way():
    vllm = Simulated(0, rows=5, budget=1000)
    requests = [request(seed) for seed in range(6)]
    drawings = [drawing(guide_request) for guide_request in requests]
    answers = await drawn(vllm, drawings, RowSemaphore(vllm.rows))
    assert not vllm.happened["full batches"]
    assert [group.attempts for group in drawings] == [1] * len(drawings)
    assert [answer.tokens for answer in answers] == [
        by_hand(guide_request)[0] for guide_request in requests
    ]


async def test_a_refusal_that_is_drawn_in_step_is_a_token_like_any_other():
    """In a vocabulary whose every id has a text, a refusal may be drawn, and costs an attempt."""
    requests = [request(seed, sampling=Sampling(), max_tokens=20) for seed in range(8)]
    drawings = [GroupDrawing(guide_request, 0, WITHOUT_HOLES, 100) for guide_request in requests]
    answers = await drawn(Simulated(0, rows=64, budget=1000), drawings, RowSemaphore(64))
    expected = [by_hand(guide_request, 0, WITHOUT_HOLES)[0] for guide_request in requests]
    assert [answer.tokens for answer in answers] == expected
    assert sum(group.attempts for group in drawings) > len(drawings)


async def test_slots_of_one_request_are_answers_of_their_own():
    requested = request(3, slots=(0, 1, 2, 3), sampling=Sampling())
    vllm = Simulated(1, rows=16, budget=50, preempts=0.01)
    drawings = [drawing(requested, slot) for slot in requested.slots]
    answers = await drawn(vllm, drawings, RowSemaphore(16))
    assert [answer.tokens for answer in answers] == [
        by_hand(requested, slot)[0] for slot in requested.slots
    ]
    assert len({answer.tokens for answer in answers}) == 4


async def test_an_answer_goes_on_where_its_prefix_ends():
    whole = request(4, sampling=Sampling(), max_tokens=12)
    tokens, _ = by_hand(whole)
    rest = request(4, sampling=Sampling(), max_tokens=8, prefix=tokens[:4])
    [answer] = await drawn(Simulated(0, rows=8, budget=99), [drawing(rest)], RowSemaphore(8))
    assert answer.tokens == tokens[4:]


async def test_a_step_ends_at_its_delimiter_and_the_room_of_the_context_ends_an_answer():
    requested = request(4, max_tokens=40)
    tokens, _ = by_hand(requested)
    delimiter = f" {tokens[2]}"
    [step] = await drawn(
        Simulated(0, rows=8, budget=99),
        [drawing(request(4, step=Step(delimiter)))],
        RowSemaphore(8),
    )
    assert (step.tokens, step.finish) == (tokens[:3], "step")
    short = GroupDrawing(requested, 0, KNOWN, 5)
    [cut] = await drawn(Simulated(0, rows=8, budget=99), [short], RowSemaphore(8))
    assert (cut.tokens, cut.finish) == (tokens[:5], "length")
    [none] = await drawn(
        Simulated(0, rows=8, budget=99), [drawing(request(4, max_tokens=0))], RowSemaphore(8)
    )
    assert (none.tokens, none.logprobs.shape, none.finish) == ((), (2, 0), "length")


async def test_increments_are_the_answer_in_order():
    news: list[Increment] = []
    requested = request(5)
    vllm = Simulated(2, rows=8, budget=30, preempts=0.1)
    [answer] = await drawn(vllm, [drawing(requested, on_increment=news.append)], RowSemaphore(8))
    partial = Partial()
    for increment in news:
        assert partial.finish is None
        partial.take(increment)
    again = partial.response(requested, "length")
    assert (again.tokens, again.finish) == (answer.tokens, answer.finish)
    np.testing.assert_array_equal(again.logprobs, answer.logprobs)


async def test_a_group_that_never_comes_in_step_is_given_up_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(groups, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(EngineError, match=r"no step of vLLM.*--max-num-seqs"):
        await drawn(Simulated(0, rows=1, budget=99), [drawing(request(0))], RowSemaphore(8))


async def test_whoever_waits_for_rows_and_leaves_holds_none():
    semaphore = RowSemaphore(3)
    order: list[str] = []

    async def hold(name: str, rows: int, done: asyncio.Event) -> None:
        async with semaphore.hold(rows):
            order.append(name)
            await done.wait()

    first, rest = asyncio.Event(), asyncio.Event()
    rest.set()
    holder = asyncio.ensure_future(hold("first", 2, first))
    await asyncio.sleep(0.01)
    leaver = asyncio.ensure_future(hold("leaver", 3, rest))
    small = asyncio.ensure_future(hold("small", 1, rest))
    await asyncio.sleep(0.01)
    assert order == ["first"]
    leaver.cancel()
    await asyncio.wait([small])
    first.set()
    await asyncio.gather(holder, hold("all", 3, rest))
    assert order == ["first", "small", "all"]
