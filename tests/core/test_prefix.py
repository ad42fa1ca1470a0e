"""Answers that begin with given tokens: scored, not drawn, and gone on from as if they had been drawn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import preftilt as pt
from preftilt.errors import BadInput
from preftilt.records.schemas import schema_text
from preftilt.testing.toy import ToyEngine, hashed_bigrams

QUESTION = [pt.Message("user", "How do I study maths?")]
DISLIKE = [pt.Preference("I dislike games.")]
SEARCHES = [
    pt.BestOfN(n=4),
    pt.DVTS(subtrees=2, width=2),
    pt.Sample(),
    pt.Greedy(),
    pt.CFG(),
    pt.CFG(greedy=True),
]
PREFIX = (4, 9, 6)


def realigned(prefix: tuple[int, ...], search: Any, **settings: Any) -> pt.Realigned:
    changed = pt.Settings(**{"max_tokens": 16, "lam": 3.0, "search": search} | settings)
    realigner = pt.Realigner(ToyEngine(hashed_bigrams(1)))
    return asyncio.run(realigner.realign(QUESTION, DISLIKE, settings=changed, prefix=prefix))


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_every_candidate_begins_with_the_prefix_and_is_scored_as_a_whole(search: Any) -> None:
    result = realigned(PREFIX, search)
    model = hashed_bigrams(1)
    for candidate in result.candidates:
        assert candidate.tokens[:3] == PREFIX
        assert 3 < len(candidate.tokens) <= 16
        for name, prompt in result.prompts.items():
            exact = [
                model(prompt + candidate.tokens[:t])[token]
                for t, token in enumerate(candidate.tokens)
            ]
            assert candidate.logprobs[name] == pytest.approx(np.array(exact))
    assert result.settings["prefix"] == list(PREFIX)
    Draft202012Validator(json.loads(schema_text("realigned"))).validate(result.to_json())


@pytest.mark.parametrize("search", [pt.Sample(), pt.Greedy(), pt.CFG()], ids=lambda s: s.name)
def test_going_on_from_an_answers_own_beginning_gives_that_answer(search: Any) -> None:
    whole = realigned((), search)
    [answer] = whole.candidates
    again = realigned(answer.tokens[:2], search)
    assert again.candidates[0].tokens == answer.tokens
    assert "prefix" not in whole.settings
    assert again.usage["sampled"] == len(answer.tokens) - 2


@pytest.mark.parametrize(
    ("prefix", "words"),
    [((4, 0, 6), "end-of-turn"), ((4,) * 16, "raise max_tokens"), ((4, 99), "token 99 is not in")],
)
def test_a_prefix_that_no_answer_can_begin_with_is_refused(
    prefix: tuple[int, ...], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        realigned(prefix, pt.Sample())
