"""Methods that need no other model, each against its formula on the same candidates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import preftilt as pt
from preftilt.errors import BadInput
from preftilt.result import ScoredCandidate
from preftilt.rivals import METHODS, AtRandom, ByVote, CandidatePool, Judges, pick
from preftilt.types import Candidate, Query, Stream, View
from tests.rivals.conftest import QUESTION, WISH, Ask, toy

FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "full-logprob": lambda q, p: p.sum(),
    "question-logprob": lambda q, p: q.sum(),
    "preference-gain": lambda q, p: (p - q).sum(),
    "mean-logprob": lambda q, p: p.mean(),
}


def by_formula(one: ScoredCandidate, name: str) -> float:
    return FORMULAS[name](one.logprobs["question"], one.logprobs["full"])


@pytest.mark.parametrize("name", FORMULAS)
def test_a_log_prob_method_ranks_the_same_candidates_by_its_formula(name: str, ask: Ask) -> None:
    by_rear, result = ask(METHODS["rear"]), ask(METHODS[name])
    assert {candidate.tokens for candidate in result.candidates} == {
        candidate.tokens for candidate in by_rear.candidates
    }
    keys = [
        (candidate.finish != "eos", -by_formula(candidate, name), candidate.slot)
        for candidate in result.candidates
    ]
    assert keys == sorted(keys)
    for candidate in result.candidates:
        assert candidate.method is not None
        assert candidate.method.score == pytest.approx(by_formula(candidate, name))
    assert result.method == {"name": name, "missing": 0}


def test_rear_s_own_record_names_no_other_method(ask: Ask) -> None:
    record = ask(METHODS["rear"]).to_json()
    assert "method" not in record
    assert "method" not in record["candidates"][0]
    assert record["settings"]["method"] == {"name": "rear"}


@pytest.mark.parametrize(("name", "lam"), [("full-logprob", 1.0), ("question-logprob", 0.0)])
def test_the_ends_of_lambda_are_rear_at_that_lambda(name: str, lam: float, ask: Ask) -> None:
    by_rear = ask(METHODS["rear"], lam=lam)
    result = ask(METHODS[name], lam=20.0)
    assert [candidate.tokens for candidate in result.candidates] == [
        candidate.tokens for candidate in by_rear.candidates
    ]


def test_the_gain_alone_is_what_a_very_large_lambda_picks(ask: Ask) -> None:
    result = ask(METHODS["preference-gain"])
    assert result.text == ask(METHODS["rear"], lam=1e9).text


def test_turning_away_turns_the_gain_around(ask: Ask) -> None:
    result = ask(METHODS["preference-gain"], preferences=(pt.Preference("No games.", -2.0),))
    ended = [candidate for candidate in result.candidates if candidate.finish == "eos"]
    gains = [candidate.preference_gain for candidate in ended]
    assert gains == sorted(gains)


def test_a_log_prob_method_guides_the_steps_of_a_tree(ask: Ask) -> None:
    search = pt.DVTS(subtrees=2, width=3, max_steps=6)
    as_rear = ask(METHODS["rear"], lam=1.0, search=search)
    result = ask(METHODS["full-logprob"], lam=50.0, search=search)
    assert [candidate.tokens for candidate in result.candidates] == [
        candidate.tokens for candidate in as_rear.candidates
    ]
    assert not any("guided the steps" in note for note in result.notes)


def test_another_method_picks_among_what_rear_s_tree_ends_with(ask: Ask) -> None:
    search = pt.DVTS(subtrees=3, width=2, max_steps=6)
    as_rear = ask(METHODS["rear"], search=search)
    result = ask(AtRandom(), search=search)
    assert {candidate.tokens for candidate in result.candidates} == {
        candidate.tokens for candidate in as_rear.candidates
    }
    assert any("REAR's score guided the steps" in note for note in result.notes)


async def test_the_random_pick_is_the_item_s_own_and_uniform() -> None:
    engine, items = toy(), 400
    candidates = tuple(Candidate((3, 0), np.zeros((1, 2)), "eos", slot) for slot in range(4))
    pool = CandidatePool(
        candidates=candidates,
        texts=("play",) * 4,
        query=Query(prompt=(1,), views=(View("question", (1,), 1.0),), lam=0.0, ratios=()),
        reward=pt.Reward(),
        stream=Stream(0),
        messages=(),
        preferences=(),
        prompt=pt.PromptSettings(),
    )

    async def picked(item: str) -> int:
        ranking = await pick(replace(pool, stream=Stream(0, item)), AtRandom(), engine, Judges())
        return ranking.candidates[0].slot

    assert await picked("7") == await picked("7")
    counts = Counter([await picked(str(i)) for i in range(items)])
    spread = math.sqrt(items * 0.25 * 0.75)
    assert all(abs(counts[slot] - items / 4) < 4 * spread for slot in range(4))


def test_a_request_picked_at_random_takes_the_item_s_own_draw(ask: Ask) -> None:
    first, again = ask(AtRandom()), ask(AtRandom())
    assert [candidate.slot for candidate in first.candidates] == [
        candidate.slot for candidate in again.candidates
    ]


def score(responses: list[str], method: ByVote) -> pt.Realigned:
    realigner = pt.Realigner(toy(), pt.Settings(lam=2.0, method=method))
    return pt.run_sync(realigner.score(QUESTION, WISH, responses))


def test_the_majority_wins_and_its_first_candidate_speaks_for_it() -> None:
    result = score(["A", "B", "play", "B."], ByVote())
    assert [candidate.slot for candidate in result.candidates] == [1, 3, 0, 2]
    told = {
        candidate.slot: candidate.method.to_json()
        for candidate in result.candidates
        if candidate.method
    }
    assert told[1] == {"score": 2.0, "answer": "B"}
    assert told[2] == {"score": None}
    assert result.method == {"name": "majority-vote", "missing": 1}
    assert any("1 of 4 candidates have no score by majority-vote" in note for note in result.notes)


def test_a_weighted_vote_weighs_by_one_plus_the_mean_score() -> None:
    result = score(["A", "B", "B."], ByVote(name="weighted-vote"))
    weights: dict[str, float] = {}
    for candidate in result.candidates:
        q, p = candidate.logprobs["question"], candidate.logprobs["full"]
        assert candidate.method is not None
        assert candidate.method.answer is not None
        mean = float(np.mean(q + 2.0 * (p - q)))
        weights[candidate.method.answer] = weights.get(candidate.method.answer, 0.0) + 1 + mean
    for candidate in result.candidates:
        assert candidate.method is not None
        assert candidate.method.score == pytest.approx(weights[candidate.method.answer or ""])
    assert result.candidates[0].method is not None
    assert result.candidates[0].method.answer == max(weights, key=weights.__getitem__)


def test_one_response_is_its_own_majority() -> None:
    assert score(["A"], ByVote()).text == "A"


@pytest.mark.parametrize("search", [pt.Greedy(), pt.Sample()])
def test_a_method_without_a_choice_is_refused(search: pt.Greedy | pt.Sample) -> None:
    with pytest.raises(BadInput, match="picks among candidates"):
        pt.Settings(search=search, method=AtRandom())


def test_an_unknown_extractor_is_refused() -> None:
    with pytest.raises(BadInput, match="must be letter or maths"):
        ByVote(answers="words")  # pyright: ignore[reportArgumentType]
