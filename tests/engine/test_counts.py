"""What is forwarded, by count: a prompt once, a token never twice, rows of all requests together."""

import asyncio

import pytest

from tests.engine.asking import draw, prompt, request, score
from tests.engine.conftest import Opened

pytestmark = pytest.mark.model


async def test_a_prompt_is_prefilled_once_for_all_rows_and_calls(opened: Opened):
    engine, question = opened(), prompt(50)
    drawn = await draw(engine, question, 8, 10)
    await score(engine, question, *(one.tokens for one in drawn))
    await draw(engine, question, 4, 10, item="again")
    assert engine.stats.prompt_tokens == 50
    assert engine.stats.prompt_hits == 8 + 1


async def test_prompts_that_arrive_together_share_a_forward(opened: Opened):
    engine = opened()
    await engine.sample([request(prompt(20, seed), 1, 1) for seed in range(10)])
    assert engine.stats.forwards == 1
    assert engine.stats.prompt_tokens == 200


async def test_best_of_n_forwards_every_token_but_the_last_once_a_view(opened: Opened):
    engine, full, question = opened(), prompt(40), prompt(30, 1)
    drawn = await draw(engine, full, 16, 20)
    await score(engine, question, *(one.tokens for one in drawn))
    expected = 2 * sum(len(one.tokens) - 1 for one in drawn)
    assert engine.stats.response_tokens == expected
    assert engine.stats.forwards == 2 + (max(len(one.tokens) for one in drawn) - 1) + 1


async def test_a_tree_forwards_no_token_twice_under_the_same_view(opened: Opened):
    """DVTS 4×4: of every child all tokens but the last, and the last of those that grow on, once a view."""
    engine, full, question = opened(), prompt(40), prompt(30, 1)
    forwarded = 0

    async def subtree(number: int) -> None:
        nonlocal forwarded
        prefix = ()
        for _ in range(4):
            forwarded += bool(prefix)
            slots = range(4 * number, 4 * number + 4)
            children = await draw(engine, full, slots, 8, prefix=prefix, keep=True)
            await score(
                engine, question, *(one.tokens for one in children), prefix=prefix, keep=True
            )
            forwarded += sum(len(one.tokens) - 1 for one in children)
            prefix += children[-1].tokens

    await asyncio.gather(*(subtree(number) for number in range(4)))
    assert engine.stats.response_tokens == 2 * forwarded < 2 * engine.stats.drawn
    assert engine.stats.prompt_tokens == 70


async def test_an_unkept_prefix_is_forwarded_once_for_all_its_rows(opened: Opened):
    engine, question, prefix = opened(), prompt(40), prompt(11, 1)
    await draw(engine, question, 1, 1)
    await draw(engine, question, 6, 1, prefix=prefix)
    assert engine.stats.response_tokens == 11


async def test_rows_of_different_items_share_forwards(opened: Opened):
    engine = opened()
    requests = [request(prompt(20 + seed, seed), 2, 10, item=str(seed)) for seed in range(12)]
    drawn = await engine.sample(requests)
    longest = max(len(one.tokens) for each in drawn for one in each)
    assert engine.stats.forwards <= 1 + longest


async def test_a_request_is_done_when_its_own_rows_are(opened: Opened):
    engine = opened()
    short = asyncio.ensure_future(draw(engine, prompt(20), 2, 2))
    long = asyncio.ensure_future(draw(engine, prompt(20, 1), (0, 1, 2, 3, 4, 5, 6, 7), 200))
    await short
    assert not long.done()
    await long


async def test_more_slots_than_rows_are_drawn_in_turn(opened: Opened):
    few, many = opened(max_rows=3), opened(max_rows=64)
    question = prompt(30)
    assert [one.tokens for one in await draw(few, question, 10, 15)] == [
        one.tokens for one in await draw(many, question, 10, 15)
    ]
    assert few.stats.rows == 10


async def test_what_is_forgotten_is_forwarded_again(opened: Opened):
    engine, question = opened(), prompt(30)
    await draw(engine, question, 2, 2)
    await draw(engine, question, 2, 2)
    assert engine.stats.prompt_tokens == 30
    engine.forget()
    await draw(engine, question, 2, 2)
    assert engine.stats.prompt_tokens == 60
