"""The front door on the toy engine: what a request comes back as."""

from __future__ import annotations

import asyncio
import itertools
import json
import math

import numpy as np
import pytest

import preftilt as pt
from preftilt import api
from preftilt.errors import BadInput, PromptTooLong
from preftilt.path import winner
from preftilt.recording import beside, repeated_end
from preftilt.reward import ScoreLine
from preftilt.rivals import METHODS
from preftilt.testing.toy import WORDS, ToyEngine, ToyTokenizer, hashed_bigrams

QUESTION = [pt.Message("user", "How do I study maths?")]
DISLIKE = [pt.Preference("I dislike games.")]


@pytest.fixture
def realigner() -> pt.Realigner:
    return pt.Realigner(
        ToyEngine(hashed_bigrams(1)), pt.Settings(max_tokens=20, search=pt.BestOfN())
    )


def realign(realigner: pt.Realigner, preferences=DISLIKE, **changes) -> pt.Realigned:
    settings = pt.Settings(**{"max_tokens": 20, "search": pt.BestOfN()} | changes)
    return asyncio.run(realigner.realign(QUESTION, preferences, settings=settings))


def test_candidates_come_best_first_with_everything_their_score_is_made_of(realigner):
    result = realign(realigner, lam=5.0)
    assert result.text == result.candidates[0].text
    assert [candidate.rank for candidate in result.candidates] == list(range(1, 17))
    assert sorted(candidate.slot for candidate in result.candidates) == list(range(16))
    for candidate in result.candidates:
        q, p = candidate.logprobs["question"], candidate.logprobs["full"]
        assert candidate.question_logprob == pytest.approx(q.sum())
        assert (
            candidate.preference_gain
            == pytest.approx((p - q).sum())
            == pytest.approx(candidate.gains.sum())
        )
        assert candidate.score == pytest.approx(
            candidate.question_logprob + 5.0 * candidate.preference_gain
        )
        assert len(candidate.tokens) == len(q) == len(p)
    ranked = [(candidate.finish != "eos", -candidate.score) for candidate in result.candidates]
    assert ranked == sorted(ranked)


@pytest.mark.parametrize("reduction", ["sum", "mean", "centred"])
@pytest.mark.parametrize("cut_off", ["last", "as-is"])
@pytest.mark.parametrize("lam", [0.0, 0.7, 3.0, 20.0, 80.0])
def test_the_path_says_what_another_lambda_would_have_chosen(realigner, reduction, cut_off, lam):
    reward = pt.Reward(reduction=reduction, cut_off=cut_off)
    here = realign(realigner, lam=2.0, reward=reward, max_tokens=6)
    there = realign(realigner, lam=lam, reward=reward, max_tokens=6)
    assert {candidate.finish for candidate in here.candidates} == {"eos", "length"}
    assert here.candidates[winner(here.path, lam)].text == there.text


def test_a_centred_record_is_relative_to_its_own_candidates(realigner):
    result = realign(realigner, lam=5.0, reward=pt.Reward(reduction="centred"))
    candidates = result.candidates
    q = [candidate.logprobs["question"].sum() for candidate in candidates]
    a_token = sum(q) / sum(len(candidate.tokens) for candidate in candidates)
    for candidate, total in zip(candidates, q, strict=True):
        n = len(candidate.tokens)
        assert candidate.question_logprob == pytest.approx((total - n * a_token) / n**0.5, abs=1e-9)
        assert candidate.score == pytest.approx(
            candidate.question_logprob + 5.0 * candidate.preference_gain
        )
        assert candidate.sums.question_logprob == pytest.approx(total)
    assert (result.settings["reduction"], result.unit) == ("centred", "nats a √token")
    ranked = [(candidate.finish != "eos", -candidate.score) for candidate in candidates]
    assert ranked == sorted(ranked)


def test_one_candidate_has_a_centred_score_of_nothing_and_a_note_says_so(realigner):
    result = realign(realigner, search=pt.BestOfN(n=1), reward=pt.Reward(reduction="centred"))
    assert [candidate.score for candidate in result.candidates] == [0.0]
    assert any("one candidate" in note for note in result.notes)


def test_a_centred_score_beside_others_is_that_of_their_pool(realigner):
    reward = pt.Reward(reduction="centred")
    result = realign(realigner, lam=5.0, reward=reward)
    alone = realign(realigner, lam=5.0, reward=reward, search=pt.BestOfN(n=1))
    [placed] = beside(result, alone).candidates
    [same] = [candidate for candidate in result.candidates if candidate.slot == 0]
    assert alone.candidates[0].score == 0.0
    assert (placed.score, placed.preference_gain) == (same.score, same.preference_gain)
    plain = realign(realigner, lam=5.0, search=pt.BestOfN(n=1))
    assert beside(realign(realigner, lam=5.0), plain).to_json() == plain.to_json()


def test_an_answer_that_was_cut_off_and_won_by_its_score_is_noted(realigner):
    won = [
        realign(
            realigner,
            lam=lam,
            max_tokens=6,
            seed=seed,
            reward=pt.Reward(cut_off="as-is"),
        )
        for seed in range(4)
        for lam in (1.0, 20.0)
    ]
    cut = [candidate for candidate in won if candidate.candidates[0].finish == "length"]
    assert cut
    assert all(
        any("was cut off at 6 tokens" in note for note in candidate.notes) for candidate in cut
    )


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([7, 8, 9] * 11, (3, 11)),
        ([1, 2, 3, 4, 5] + [7] * 32, (1, 32)),
        ([1, 2] + list(range(20)) * 3, (20, 3)),
        ([1, 2] + list(range(20)) * 3 + [0, 1, 2], (20, 3)),  # Cut off within the loop.
        (list(range(20)) * 2, (0, 0)),  # Twice is no loop.
        ([7, 8, 9] * 10, (0, 0)),  # Nor are few tokens.
        ([7, 8, 9] * 11 + [1], (0, 0)),  # It went on to something else.
        ([], (0, 0)),
    ],
)
def test_a_loop_at_the_end_of_an_answer_is_found(tokens, loop):
    assert repeated_end(tokens) == loop


def test_more_tokens_are_not_advised_for_an_answer_that_repeats_itself():
    def always_the_same(tokens):
        row = np.full(len(WORDS), -9.0)
        row[5] = math.log1p(-(len(WORDS) - 1) * math.exp(-9.0))
        return row

    realigner = pt.Realigner(ToyEngine(always_the_same))
    result = realign(realigner, search=pt.CFG(), max_tokens=40)
    [note] = [note for note in result.notes if "cut off at 40 tokens" in note]
    assert "ends in a loop (period in tokens: 1, repeats: 40)" in note
    assert "allow more" not in note


@pytest.mark.parametrize("method", ["question-logprob", "full-logprob", "preference-gain"])
def test_methods_over_log_probs_are_reduced_as_the_reward_says(realigner, method):
    reward = pt.Reward(reduction="centred")
    picked = realign(realigner, lam=5.0, reward=reward, method=METHODS[method])
    at = {"question-logprob": 0.0, "full-logprob": 1.0, "preference-gain": math.inf}[method]
    for candidate in picked.candidates:
        assert candidate.method is not None
        line = ScoreLine(candidate.question_logprob, candidate.preference_gain)
        assert candidate.method.score == pytest.approx(line.at(at))


def test_several_preferences_keep_the_record_s_identity(realigner):
    both = [pt.Preference("I dislike games.", 4.0), pt.Preference("I like drawing.", -2.0)]
    result = realign(realigner, both)
    assert result.lam == 4.0
    assert set(result.prompts) == {"question", "preference_1", "preference_2"}
    for candidate in result.candidates:
        q, first, second = candidate.logprobs.values()
        by_hand = q.sum() + 4.0 * (first - q).sum() - 2.0 * (second - q).sum()
        assert candidate.score == pytest.approx(by_hand)
        assert candidate.score == pytest.approx(
            candidate.question_logprob + 4.0 * candidate.preference_gain
        )


def test_a_negative_strength_turns_away_and_its_path_reaches_it(realigner):
    away = realign(realigner, [pt.Preference("I dislike games.", -8.0)])
    assert away.lam == -8.0
    assert away.path[0].start == -8.0
    assert away.candidates[winner(away.path, -8.0)].text == away.text
    assert set(away.usage["scored"]) == {"full"}  # drawn from the question's prompt


def test_the_same_item_gives_the_same_answer_alone_and_beside_others(realigner):
    async def together():
        return await asyncio.gather(
            *(realigner.realign(QUESTION, DISLIKE, item=str(i)) for i in range(4))
        )

    company = asyncio.run(together())
    alone = asyncio.run(realigner.realign(QUESTION, DISLIKE, item="2"))
    assert alone.id == "2"
    assert [candidate.tokens for candidate in company[2].candidates] == [
        candidate.tokens for candidate in alone.candidates
    ]
    texts = {result.candidates[0].tokens for result in company}
    assert len(texts) > 1


def test_the_record_holds_no_infinity_and_round_trips_through_json(realigner):
    record = realign(realigner).to_json()
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again == record
    assert again["path"][-1]["to"] is None
    assert again["settings"]["search"] == {"name": "best-of-n", "n": 16}
    assert again["settings"]["lambda"] == 20.0
    assert again["versions"]["preftilt"] == pt.__version__


def test_usage_adds_up(realigner):
    usage = realign(realigner).usage
    assert usage["sampled"] >= usage["reused"]
    assert usage["scored"]["question"] == usage["reused"]
    assert set(usage["prompt"]) == {"question", "full"}


def test_given_responses_are_scored_and_ranked(realigner):
    texts = ["maths play", "read sleep.", "maths play"]
    result = asyncio.run(realigner.score(QUESTION, DISLIKE, texts))
    assert result.settings["search"] == {"name": "given"}
    assert sorted(candidate.slot for candidate in result.candidates) == [0, 1, 2]
    assert {candidate.slot: candidate.text for candidate in result.candidates} == dict(
        enumerate(texts)
    )
    assert result.usage["sampled"] == 0
    assert result.usage["duplicates"] == 1
    assert all(candidate.tokens[-1] == 0 for candidate in result.candidates)


def test_a_call_works_inside_a_running_event_loop():
    async def notebook() -> str:
        drawing = pt.Realigner(ToyEngine(), pt.Settings(search=pt.BestOfN()))
        work = drawing.realign(QUESTION, DISLIKE)
        return pt.run_sync(work).text

    assert asyncio.run(notebook())


@pytest.mark.parametrize("lam", [math.nan, math.inf])
def test_a_lambda_that_is_not_a_number_is_refused(lam):
    with pytest.raises(BadInput, match="finite"):
        pt.Settings(lam=lam)


@pytest.mark.parametrize("responses", [[], ["fine", "  "]])
def test_empty_responses_are_refused(realigner, responses):
    with pytest.raises(BadInput, match="at least one response"):
        asyncio.run(realigner.score(QUESTION, DISLIKE, responses))


def test_what_cannot_fit_is_refused_before_a_token_is_drawn():
    engine = ToyEngine(max_context=5)
    with pytest.raises(PromptTooLong):
        asyncio.run(pt.Realigner(engine).realign(QUESTION, DISLIKE))
    assert engine.counts == {"sampled": 0, "scored": 0}


def test_stored_logprobs_reproduce_any_lambda_gamma_and_reduction(realigner):
    base = realign(realigner, lam=1.0)
    for lam, gamma in itertools.product((0.0, 3.0, 20.0), (1.0, 0.9)):
        other = realign(realigner, lam=lam, reward=pt.Reward(gamma=gamma, reduction="mean"))
        by_slot = {candidate.slot: candidate for candidate in other.candidates}
        for candidate in base.candidates:
            q, p = candidate.logprobs["question"], candidate.logprobs["full"]
            weights = gamma ** np.arange(len(q))
            by_hand = weights @ (q + lam * (p - q)) / len(q)
            assert by_slot[candidate.slot].score == pytest.approx(by_hand)


def test_notes_say_when_nothing_finished_or_length_matters(realigner):
    unending = pt.Realigner(ToyEngine(lambda context: np.log([1e-12, *[1 / 11] * 11])))
    cut = asyncio.run(
        unending.realign(
            QUESTION, DISLIKE, settings=pt.Settings(max_tokens=2, lam=1, search=pt.BestOfN())
        )
    )
    assert cut.notes[0] == (
        "no candidate ended within 2 tokens, so a cut-off one was chosen; allow more (max_tokens)"
    )
    spread = realign(realigner, lam=20.0)
    assert not any("whatever λ" in note for note in spread.notes)
    lengths = [len(candidate.tokens) for candidate in spread.candidates]
    assert max(lengths) > 3 * min(lengths)
    assert any("depends much on length" in note for note in spread.notes)
    mean = realign(realigner, lam=20.0, reward=pt.Reward(reduction="mean"))
    for silent in (mean, realign(realigner, lam=2.0)):
        assert not any("length" in note for note in silent.notes)


def test_the_only_candidate_that_ended_is_told_to_win_whatever_lambda_is(realigner):
    counts: set[int] = set()
    for seed in range(10):
        drawn = realign(realigner, lam=3.0, seed=seed, max_tokens=2)
        ended = [candidate.finish != "length" for candidate in drawn.candidates]
        told = [note for note in drawn.notes if "chosen whatever λ is" in note]
        assert len(told) == (sum(ended) == 1)
        counts.add(sum(ended))
        compared = realign(
            realigner, lam=3.0, seed=seed, max_tokens=2, reward=pt.Reward(cut_off="as-is")
        )
        assert not any("chosen whatever λ is" in note for note in compared.notes)
    assert counts >= {1, 2}


def test_the_short_call_keeps_one_model_and_lets_the_others_go(monkeypatch):
    opened: list[str] = []

    def open_engine(model: str) -> ToyEngine:
        opened.append(model)
        return ToyEngine(hashed_bigrams(1), model=model)

    monkeypatch.setattr(api, "open_engine", open_engine)
    monkeypatch.setattr(api, "_OPEN", {})
    for model in ("a", "a", "b", "b", "a"):
        assert pt.realign("Q?", "x", model=model, max_tokens=4).model == model
        assert [*api._OPEN] == [model]
    assert opened == ["a", "b", "a"]


def test_several_draws_at_temperature_0_are_told_to_be_one(realigner):
    note = "temperature 0 draws one answer"
    cold = pt.Sampling(temperature=0)
    assert any(note in text for text in realign(realigner, sampling=cold).notes)
    for changes in ({}, {"sampling": cold, "search": pt.BestOfN(n=1)}):
        assert not any(note in text for text in realign(realigner, **changes).notes)


def test_a_response_that_brings_its_end_of_turn_gets_no_second_one():
    class Literal(ToyTokenizer):
        """Its end of a turn is a word."""

        def encode_response(self, text: str, after: str = "") -> tuple[int, ...]:
            return tuple(self.words.index(part.replace("END", "<end>")) for part in text.split("|"))

    engine = ToyEngine(hashed_bigrams(1), tokenizer=Literal())
    realigner = pt.Realigner(engine)
    scored = asyncio.run(realigner.score(QUESTION, DISLIKE, ["maths|END", "maths"]))
    assert len({candidate.tokens for candidate in scored.candidates}) == 1
    with pytest.raises(BadInput, match="response 1 has an end-of-turn token before its end"):
        asyncio.run(realigner.score(QUESTION, DISLIKE, ["maths|END|play"]))
    with pytest.raises(BadInput, match=r"response 2: it ends with '<end>', .*: take it out"):
        asyncio.run(realigner.score(QUESTION, DISLIKE, ["maths", "maths|<end>\n"]))
    engine.max_context = 6
    with pytest.raises(
        PromptTooLong, match="response 1 has 3 tokens; with the prompt that is 2 more"
    ):
        asyncio.run(realigner.score(QUESTION, DISLIKE, ["maths|play"]))
