"""Methods that answer, against what the library's own door gives for the same request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from preftilt.api import Realigner
from preftilt.errors import BadInput, PromptTooLong
from preftilt.eval.accuracy.behaviour import (
    AnswerSettings,
    answer,
    check,
    default_methods,
    parse_method,
    parse_methods,
    remembering,
)
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.search import CFG, BestOfN, Greedy
from preftilt.settings import Settings
from preftilt.testing.toy import ToyEngine
from preftilt.types import Sampling, Tokens
from tests.accuracy.toys import comparison, context

DRAWING = AnswerSettings(n=4, max_tokens=12, sampling=Sampling(top_p=0.9), seed=3)
GREEDY = Sampling(temperature=0)


async def tokens(name: str, number: int = 0, **changed) -> Tokens:
    given, _ = await answer(context(number, **changed), parse_method(name, DRAWING), DRAWING)
    return given.tokens


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("prompted", Settings(search=Greedy(), max_tokens=12)),
        (
            "rear=5",
            Settings(
                lam=5, search=BestOfN(n=4), max_tokens=12, sampling=Sampling(top_p=0.9), seed=3
            ),
        ),
        ("cfg=3", Settings(lam=3, search=CFG(), max_tokens=12, sampling=GREEDY)),
        ("linear-alignment", Settings(lam=3, search=CFG(), max_tokens=12, sampling=GREEDY)),
        (
            "la-author",
            Settings(
                lam=3,
                search=CFG(mask_top_p=0.8, mask_temperature=0.7),
                max_tokens=12,
                sampling=GREEDY,
            ),
        ),
    ],
)
@pytest.mark.parametrize("number", [0, 5])
async def test_told_a_preference_a_method_answers_as_realign_does(name, settings, number):
    item = comparison(number)
    realigner = Realigner(ToyEngine(), settings)
    result = await realigner.realign(item.messages, item.preferences, item=item.id)
    assert await tokens(name, number) == result.candidates[0].tokens


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("icl=2", Settings(search=Greedy(), max_tokens=12)),
        (
            "rear-icl=5",
            Settings(
                lam=5, search=BestOfN(n=4), max_tokens=12, sampling=Sampling(top_p=0.9), seed=3
            ),
        ),
        ("cfg-icl=3", Settings(lam=3, search=CFG(), max_tokens=12, sampling=GREEDY)),
    ],
)
async def test_shown_examples_a_method_answers_as_realign_does_with_them_as_earlier_turns(
    name, settings
):
    """Both of the comparison's examples fit, so that they are the conversation's earlier turns."""
    item = comparison(1)
    turns = [
        turn
        for one in item.examples
        for turn in (Message("user", one.question), Message("assistant", one.response))
    ]
    settings = replace(settings, prompt=PromptSettings(history="preference"))
    result = await Realigner(ToyEngine(), settings).realign(
        [*turns, *item.messages], (), item=item.id
    )
    assert await tokens(name, 1) == result.candidates[0].tokens


async def test_the_base_is_told_nothing():
    bare = await tokens("base", preferences=(), examples=())
    assert await tokens("base") == bare
    assert await tokens("prompted") != bare or await tokens("icl=2") != bare


async def test_equal_draws_of_methods_are_made_once():
    engine = ToyEngine()
    shared = remembering(context(0, engine))
    await answer(shared, parse_method("rear=3", DRAWING), DRAWING)
    spent = dict(engine.counts)
    await answer(shared, parse_method("rear=20", DRAWING), DRAWING)
    assert engine.counts == spent


def test_methods_are_the_rules_of_the_same_names():
    names = ["base", "icl=3", "rear=2", "rear=2", "amulet-icl"]
    methods = parse_methods(names, DRAWING)
    assert [one.name for one in methods] == ["base", "icl=3", "rear=2", "amulet-icl"]
    assert (methods[1].rule.count, methods[2].lam) == (3, 2.0)
    told = {method.name: method.rule.evidence for method in methods}
    assert told == {
        "base": "none",
        "icl=3": "examples",
        "rear=2": "stated",
        "amulet-icl": "examples",
    }
    assert default_methods(preferences=False, examples=False) == ["base"]
    parse_methods(default_methods(preferences=True, examples=True), DRAWING)


@pytest.mark.parametrize("name", ["reward-model", "args=1", "arm"])
def test_rules_that_need_another_model_are_no_methods(name: str):
    with pytest.raises(BadInput, match="does not write any here"):
        parse_method(name, DRAWING)


def test_what_cannot_be_answered_is_refused_before_anything_is_drawn():
    with pytest.raises(BadInput, match='row 0: "examples" is missing'):
        check(context(examples=()), parse_methods(["icl=2"], DRAWING), DRAWING)
    with pytest.raises(BadInput, match="row 0: no preference is stated"):
        check(context(preferences=()), parse_methods(["rear=2"], DRAWING), DRAWING)
    with pytest.raises(PromptTooLong):
        check(
            context(0, ToyEngine(max_context=30)),
            parse_methods(["base"], DRAWING),
            AnswerSettings(max_tokens=50),
        )
    with pytest.raises(BadInput, match="at least 1"):
        AnswerSettings(n=0)
