"""The generative reward model against the toy's written-down probabilities."""

from __future__ import annotations

import numpy as np
import pytest

import preftilt as pt
from preftilt.errors import BadInput, PromptTooLong
from preftilt.messages import Message
from preftilt.rivals import ByJudge, Judges
from preftilt.rivals.verdict import FORCED, NO, REASONED, YES, GenerativeRewardModel
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams
from preftilt.types import Stream
from tests.rivals.conftest import QUESTION, SPELLED, Ask, toy

STATED = [Message("system", "No games."), *QUESTION]


def verdict_by_hand(engine: ToyEngine, response: str, asked: str) -> tuple[float, float]:
    """log P(Yes) − log P(No) behind "Preferred:", from the model's own next-token distribution; and their mass."""
    turns = [*STATED, Message("assistant", response), Message("user", asked)]
    context = engine.tokenizer.render(turns) + engine.tokenizer.encode("Preferred:")
    probabilities = np.exp(engine.next_logprobs(context))
    yes, no = (sum(probabilities[SPELLED.index(word)] for word in words) for words in (YES, NO))
    return float(np.log(yes) - np.log(no)), float(yes + no)


def test_a_forced_verdict_is_the_log_ratio_of_the_added_up_spellings() -> None:
    engine = toy()
    judge = GenerativeRewardModel(engine, ByJudge())
    verdicts = pt.run_sync(judge.judge(STATED, ["A", "play."], Stream(0)))
    for response, verdict in zip(["A", "play."], verdicts, strict=True):
        score, mass = verdict_by_hand(engine, response, FORCED)
        assert verdict.score == pytest.approx(score)
        assert verdict.mass == pytest.approx(mass)
        assert (verdict.forwards, verdict.sampled) == (1, 0)
    assert engine.counts["sampled"] == 0


def test_the_judge_s_order_is_the_answers_order_and_its_cost_is_counted(ask: Ask) -> None:
    engine = toy()
    result = ask(ByJudge(), engine=engine)
    ended = [candidate for candidate in result.candidates if candidate.finish == "eos"]
    by_hand = [verdict_by_hand(engine, candidate.text, FORCED)[0] for candidate in ended]
    assert by_hand == sorted(by_hand, reverse=True)
    distinct = len({candidate.text for candidate in result.candidates})
    assert result.usage["method"]["forwards"] == distinct
    # Five tokens of prompt, one of "Preferred:", eight spellings of one token.
    assert result.usage["method"]["tokens"] == distinct * (5 + 1 + 8)
    assert result.method == {"name": "generative-reward-model", "model": "toy", "missing": 0}
    assert "picking" in result.timing


def test_spellings_that_are_the_same_tokens_count_once() -> None:
    words = tuple(
        spelling for spelling in SPELLED if spelling.strip() == spelling or spelling == "\n"
    )
    spaceless = ToyTokenizer(words=(*words, " "))
    engine = ToyEngine(hashed_bigrams(1, len(words) + 1), tokenizer=spaceless)
    judge = GenerativeRewardModel(engine, ByJudge())
    [verdict] = pt.run_sync(judge.judge(STATED, ["A"], Stream(0)))
    assert verdict.mass <= 1.0
    context = spaceless.render([*STATED, Message("assistant", "A"), Message("user", FORCED)])
    context += spaceless.encode("Preferred:")
    first = np.exp(engine.next_logprobs(context))
    behind_space = np.exp(engine.next_logprobs((*context, len(words))))
    of = {one: spaceless.words.index(one) for one in ("Yes", "yes", "No", "no")}
    yes = sum(first[of[one]] + first[-1] * behind_space[of[one]] for one in ("Yes", "yes"))
    no = sum(first[of[one]] + first[-1] * behind_space[of[one]] for one in ("No", "no"))
    assert verdict.score == pytest.approx(np.log(yes) - np.log(no))


def certain(*sentence: str) -> ToyEngine:
    """A judge that all but always writes ``sentence`` and then ends, whatever it is asked."""
    tokenizer = ToyTokenizer(words=SPELLED)
    tokens = [tokenizer.words.index(word) for word in sentence]
    after = dict(zip([2, *tokens], [*tokens, 0], strict=True))

    def next_logprobs(context: tuple[int, ...]) -> np.ndarray:
        probabilities = np.full(len(SPELLED), 1e-9)
        probabilities[after.get(context[-1], 0)] = 1.0
        return np.log(probabilities / probabilities.sum())

    return ToyEngine(next_logprobs, tokenizer=tokenizer)


def test_reasons_come_first_and_the_verdict_is_read_behind_them() -> None:
    engine = certain("play", ".", "Preferred:", " Yes")
    judge = GenerativeRewardModel(engine, ByJudge(judge_mode="cot", judge_tokens=16))
    [verdict] = pt.run_sync(judge.judge(STATED, ["B"], Stream(0)))
    assert verdict.sampled == 3
    assert verdict.mass == pytest.approx(1.0, abs=1e-6)
    assert verdict.score is not None
    assert verdict.score > 15
    prompt = engine.tokenizer.render(
        [*STATED, Message("assistant", "B"), Message("user", REASONED)]
    )
    assert verdict.read == len(prompt) + 3 + 8


@pytest.mark.parametrize(
    "sentence", [("play", "."), ("play", "play", "play")], ids=["it ends before", "it goes on"]
)
def test_a_verdict_that_never_comes_is_counted_and_is_no_number(
    sentence: tuple[str, ...], ask: Ask
) -> None:
    judge = certain(*dict.fromkeys(sentence))
    if len(set(sentence)) == 1:
        judge = certain("play", ".", "s", "A", "B")
    method = ByJudge(judge_mode="cot", judge_tokens=2)
    result = ask(method, judges=Judges(judge=judge))
    assert result.method is not None
    assert result.method["missing"] == len(result.candidates)
    assert result.to_json()["candidates"][0]["method"] == {"score": None}
    assert any("no score by generative-reward-model" in note for note in result.notes)
    ended = [candidate.slot for candidate in result.candidates if candidate.finish == "eos"]
    assert ended == sorted(ended)
    assert result.usage["method"]["sampled"] > 0


def test_a_judge_that_hardly_says_yes_or_no_is_reported(ask: Ask) -> None:
    result = ask(ByJudge(), judges=Judges(judge=certain("play", ".")))
    assert any("so its verdicts mean little" in note for note in result.notes)


def test_the_same_seed_and_item_give_the_same_reasons(ask: Ask) -> None:
    method = ByJudge(judge_mode="cot", judge_temperature=1.0, judge_tokens=40)
    first, again = (ask(method, item="7") for _ in range(2))
    assert first.to_json()["candidates"] == again.to_json()["candidates"]


def test_a_conversation_too_long_for_the_judge_is_refused_before_the_first_token(
    ask: Ask,
) -> None:
    engine = toy()
    with pytest.raises(PromptTooLong, match="the judge toy needs"):
        ask(ByJudge(), engine=engine, judges=Judges(judge=toy(max_context=6)))
    assert engine.counts == {"sampled": 0, "scored": 0}


def test_a_judge_cannot_turn_away(ask: Ask) -> None:
    with pytest.raises(BadInput, match="cannot turn away"):
        ask(ByJudge(), preferences=(pt.Preference("No games.", -1.0),))
