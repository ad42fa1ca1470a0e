"""What a model thought before it answered is neither scored nor shown, and stands apart in the record."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import jsonschema
import numpy as np
import pytest

import preftilt as pt
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.records.schemas import schema_text
from preftilt.reward import Reward, sums
from preftilt.reward import order as ranked_by
from preftilt.rivals import ByJudge
from preftilt.rivals.verdict import GenerativeRewardModel
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams
from preftilt.types import Candidate, Preference, Reduction, Tokens

QUESTION = [Message("user", "How?")]
WISH = [Preference("No games.")]
CLOSING = ToyTokenizer().words.index("\n")


@dataclass(frozen=True, slots=True)
class Thinking(ToyTokenizer):
    """Every response begins with thoughts, which a line break ends."""

    @property
    def opens_thoughts(self) -> bool:
        return True

    def thoughts(self, tokens: Tokens) -> int:
        return tokens.index(CLOSING) + 1 if CLOSING in tokens else len(tokens)


def realigner(**changes: Any) -> pt.Realigner:
    engine = ToyEngine(hashed_bigrams(1), tokenizer=Thinking())
    return pt.Realigner(engine, pt.Settings(lam=5.0, max_tokens=24, **changes))


def test_a_score_begins_behind_the_thoughts():
    rows = np.array([[-9.0, -8.0, -1.0, -2.0], [-7.0, -5.0, -0.5, -1.0]])
    whole = Candidate((5, 1, 6, 0), rows, "eos", thoughts=2)
    answer = Candidate((6, 0), rows[:, 2:], "eos")
    for reward in (Reward(), Reward(gamma=0.5), Reward(eos="exclude")):
        assert sums(whole, (1.0,), reward) == sums(answer, (1.0,), reward)
    unanswered = sums(Candidate((5, 1), rows[:, :2], "length", thoughts=2), (1.0,), Reward())
    assert (unanswered.length, unanswered.question_logprob) == (0, -np.inf)


@pytest.mark.parametrize("reduction", ["sum", "mean", "centred"])
def test_answers_are_scored_and_shown_without_their_thoughts(reduction: Reduction):
    opened = realigner(reward=Reward(reduction=reduction), search=pt.BestOfN(n=12))
    result = asyncio.run(opened.realign(QUESTION, WISH))
    tokenizer = Thinking()
    thoughtful = [
        candidate for candidate in result.candidates if candidate.thoughts < len(candidate.tokens)
    ]
    assert thoughtful
    for candidate in result.candidates:
        assert candidate.text == tokenizer.decode(candidate.tokens[candidate.thoughts :])
        assert candidate.reasoning == tokenizer.decode(candidate.tokens[: candidate.thoughts])
        assert candidate.sums.length == len(candidate.tokens) - candidate.thoughts
    for candidate in thoughtful:
        scored = candidate.logprobs["question"][candidate.thoughts :].sum()
        assert candidate.sums.question_logprob == pytest.approx(scored)
    assert "\n" not in result.text.split("\n")[0]
    record = result.to_json()
    jsonschema.validate(record, json.loads(schema_text("realigned")))
    told = {candidate["slot"]: candidate["reasoning"] for candidate in record["candidates"]}
    assert told[result.candidates[0].slot] == {
        "text": result.candidates[0].reasoning,
        "tokens": result.candidates[0].thoughts,
    }


def test_what_the_knob_did_is_told_of_the_answer_alone():
    told = asyncio.run(realigner(search=pt.BestOfN(n=12)).realign(QUESTION, WISH))
    answer = told.candidates[0]
    assert answer.thoughts
    assert told.effect is not None
    assert told.effect.difference == pytest.approx(np.abs(answer.gains[answer.thoughts :]).mean())


def test_a_response_that_ended_within_its_thoughts_stands_behind_those_with_an_answer():
    rows = np.full((2, 2), -1.0)
    unanswered = Candidate((5, 0), rows, "eos", thoughts=2)
    answered = Candidate((1, 0), rows, "eos", slot=1, thoughts=1)
    assert (unanswered.cut_off, answered.cut_off) == (True, False)
    ranked = ranked_by([0.0, -1.0], [unanswered.cut_off, answered.cut_off], "last")
    assert ranked == [1, 0]


def test_candidates_without_an_answer_do_not_win_and_are_told_of():
    opened = realigner(search=pt.BestOfN(n=12), seed=3)
    result = asyncio.run(opened.realign(QUESTION, WISH))
    unanswered = [
        candidate for candidate in result.candidates if candidate.thoughts == len(candidate.tokens)
    ]
    assert unanswered
    assert result.candidates[0] not in unanswered
    assert all(candidate.score == -np.inf for candidate in unanswered)
    note = f"{len(unanswered)} of 12 candidates thought and came to no answer; allow more"
    assert any(note in text for text in result.notes)


def test_given_responses_are_scored_from_their_answers_on():
    result = asyncio.run(realigner().score(QUESTION, WISH, ["maths\nplay.", "draw\nplay."]))
    assert [candidate.text for candidate in result.candidates] == ["play.", "play."]
    assert {candidate.reasoning for candidate in result.candidates} == {"maths\n", "draw\n"}
    with pytest.raises(BadInput, match="response 2 has thoughts and no answer"):
        asyncio.run(realigner().score(QUESTION, WISH, ["maths\nplay.", "play."]))


def test_a_judge_that_thinks_first_gives_no_verdict_at_once():
    engine = ToyEngine(hashed_bigrams(1), tokenizer=Thinking())
    with pytest.raises(BadInput, match=r"begins every answer with thoughts.*--judge-mode cot"):
        GenerativeRewardModel(engine, ByJudge()).check(QUESTION)
