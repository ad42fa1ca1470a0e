"""Requests with reward models, through the library on the toy model: exact, and without torch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from preftilt.api import Realigner, Settings
from preftilt.guided import combine, pick
from preftilt.path import winner
from preftilt.records.schemas import schema_text
from preftilt.result import Realigned
from preftilt.search import CFG, DVTS, PRESETS, ArmGuided, BestOfN, Greedy, Sample
from preftilt.streams import position_key, stream_key
from preftilt.testing.contract import EngineLaws
from preftilt.testing.toy import NextLogprobs, ToyEngine
from preftilt.types import Preference, Sampling, Stream, Tokens
from tests.arms_decoding.toys import BASE, GAMES, HELPFUL, MESSAGES, SAFER, by, mixed, realign, toy

GREEDY = Sampling(temperature=0)


def drawn_by_hand(
    reads: list[tuple[NextLogprobs, Tokens, float]], sampling: Sampling, slot: int, length: int
) -> Tokens:
    """Tokens of Σ w log π, from the toy models' tables."""
    key, tokens = stream_key(Stream(0, ""), slot), ()
    while len(tokens) < length and tokens[-1:] != (0,):
        raw = np.stack([says(prompt + tokens) for says, prompt, _ in reads])
        guided = combine(raw, [weight for _, _, weight in reads])
        tokens += (pick(guided, sampling, position_key(key, len(tokens))),)
    return tokens


def logprob(says: NextLogprobs, prompt: Tokens, tokens: Tokens) -> float:
    return sum(float(says(prompt + tokens[:t])[token]) for t, token in enumerate(tokens))


def slots(result: Realigned) -> list[Tokens]:
    return [one.tokens for one in sorted(result.candidates, key=lambda one: one.slot)]


# --- ranking ------------------------------------------------------------------------


async def test_best_of_n_scores_by_base_and_weighted_arms():
    arms = by("helpful", "safer", weight=2.0, safer=0.5)
    result = await realign(Settings(search=BestOfN(n=8), arms=arms, max_tokens=12))
    question = result.prompts["question"]
    for one in result.candidates:
        expected = (
            logprob(BASE, question, one.tokens)
            + 2.0 * logprob(HELPFUL, question, one.tokens)
            + 0.5 * logprob(SAFER, question, one.tokens)
        )
        assert one.score == pytest.approx(expected, abs=1e-9)
    finished = [one.score for one in result.candidates if one.finish == "eos"]
    assert finished == sorted(finished, reverse=True)
    assert list(result.prompts) == ["question", "arm:helpful", "arm:safer"]


async def test_with_several_preferences_an_arm_reads_them_together_as_answers_are_drawn():
    wishes = [GAMES, Preference("draw")]
    result = await realign(Settings(search=BestOfN(n=2), arms=by("safer"), max_tokens=8), wishes)
    assert result.prompts["arm:safer"] not in [
        result.prompts[name] for name in ("question", "preference_1", "preference_2")
    ]
    assert result.usage["prompt"]["generation"] == len(result.prompts["arm:safer"])
    for one in result.candidates:
        [row] = [one.logprobs["arm:safer"]]
        assert row.sum() == pytest.approx(
            logprob(SAFER, result.prompts["arm:safer"], one.tokens), abs=1e-9
        )


async def test_candidates_are_the_models_own_whoever_reads_them():
    settings = Settings(search=BestOfN(n=6), max_tokens=12)
    read = await realign(Settings(search=BestOfN(n=6), arms=by("helpful"), max_tokens=12), [GAMES])
    plain = await realign(settings, [GAMES])
    assert slots(read) == slots(plain)


async def test_beside_preferences_an_arm_adds_to_rears_score_whatever_lambda_is():
    search = BestOfN(n=8)
    plain = await realign(Settings(lam=3.0, search=search, max_tokens=12), [GAMES])
    read = await realign(
        Settings(lam=3.0, search=search, arms=by("safer", weight=0.7), max_tokens=12), [GAMES]
    )
    alone = {one.slot: one for one in plain.candidates}
    question = read.prompts["arm:safer"]
    assert question == read.prompts["full"]
    assert read.lam == 3.0
    for one in read.candidates:
        added = 0.7 * logprob(SAFER, question, one.tokens)
        assert one.score == pytest.approx(alone[one.slot].score + added, abs=1e-9)
        assert one.preference_gain == alone[one.slot].preference_gain
    assert [view.weight for view in read.views] == [-2.0, 3.0, 0.7]


@pytest.mark.parametrize("preferences", [(), (GAMES,)], ids=["alone", "beside"])
async def test_the_path_names_the_winner_of_every_lambda(preferences: tuple[Preference, ...]):
    arms = by("both", alpha="help=0.7,safe=0.3", weight=2.0)
    settings = Settings(lam=5.0, search=BestOfN(n=12), arms=arms, max_tokens=12)
    result = await realign(settings, preferences)
    question, both = result.prompts["question"], mixed((0.7, 0.3))
    for lam in (0.0, 0.3, 1.0, 2.0, 5.0, 40.0):
        best = result.candidates[winner(result.path, lam)]
        scores = []
        for one in result.candidates:
            q = logprob(BASE, question, one.tokens)
            arm = logprob(both, result.prompts["arm:both"], one.tokens)
            total = q + lam * arm
            if preferences:
                full = logprob(BASE, result.prompts["full"], one.tokens)
                total = q + lam * (full - q) + 2.0 * arm
            if one.finish == "eos" or all(c.finish != "eos" for c in result.candidates):
                scores.append((total, one.tokens))
        assert best.tokens == max(scores)[1]


async def test_a_tree_search_keeps_what_base_and_arm_score_highest():
    search = DVTS(subtrees=1, width=3, max_steps=4)
    settings = Settings(search=search, arms=by("helpful", weight=3.0), max_tokens=16)
    result = await realign(settings)
    [one] = result.candidates
    question = result.prompts["question"]
    expected = logprob(BASE, question, one.tokens) + 3 * logprob(HELPFUL, question, one.tokens)
    assert one.score == pytest.approx(expected, abs=1e-9)
    plain = await realign(Settings(search=search, max_tokens=16, lam=1.0), [GAMES])
    assert one.tokens != plain.candidates[0].tokens


async def test_arms_of_one_objective_share_out_their_weight_by_the_preference_vector():
    shared = by("helpful", "safer", alpha="safe=0.25,help=0.75", weight=2.0)
    spelled = by("helpful", "safer", helpful=1.5, safer=0.5)
    first, second = [
        await realign(Settings(search=BestOfN(n=5), arms=arms, max_tokens=12))
        for arms in (shared, spelled)
    ]
    assert [one.score for one in first.candidates] == [one.score for one in second.candidates]
    assert [view.weight for view in first.views] == [1.0, 1.5, 0.5]


# --- decoding -----------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=0.6, top_p=0.9)])
async def test_tokens_are_drawn_from_base_and_weighted_arms(sampling: Sampling):
    settings = Settings(
        search=ArmGuided(n=4), arms=by("helpful", weight=1.5), sampling=sampling, max_tokens=14
    )
    result = await realign(settings)
    question = result.prompts["question"]
    reads = [(BASE, question, 1.0), (HELPFUL, question, 1.5)]
    expected = [drawn_by_hand(reads, sampling, slot, 14) for slot in range(4)]
    assert slots(result) == expected


async def test_with_a_preference_all_read_the_prompt_that_answers_are_drawn_from():
    settings = Settings(search=ArmGuided(), arms=by("safer"), sampling=GREEDY, max_tokens=14)
    result = await realign(settings, [GAMES])
    reads = [(BASE, result.prompts["full"], 1.0), (SAFER, result.prompts["full"], 1.0)]
    assert slots(result) == [drawn_by_hand(reads, GREEDY, 0, 14)]
    assert result.usage["guided"] == {
        "full": len(result.candidates[0].tokens),
        "arm:safer": len(result.candidates[0].tokens),
    }


async def test_every_guided_search_takes_arms_along():
    settings = Settings(
        lam=2.5, search=CFG(), arms=by("safer", weight=0.5), sampling=GREEDY, max_tokens=14
    )
    result = await realign(settings, [GAMES])
    question = result.prompts["question"]
    reads = [
        (BASE, question, -1.5),
        (BASE, result.prompts["full"], 2.5),
        (SAFER, result.prompts["full"], 0.5),
    ]
    assert slots(result) == [drawn_by_hand(reads, GREEDY, 0, 14)]


@pytest.mark.parametrize(
    "arms",
    [by("helpful", weight=0.0), by("even"), by("even", "helpful", helpful=0.0)],
    ids=["weight zero", "uniform", "both"],
)
async def test_an_arm_that_says_nothing_leaves_the_base_as_it_is(arms: Any):
    guided = await realign(Settings(search=ArmGuided(n=5), arms=arms, max_tokens=14))
    plain = await realign(Settings(search=BestOfN(n=5), arms=by("helpful"), max_tokens=14), ())
    assert slots(guided) == slots(plain)


@pytest.mark.parametrize(
    ("alpha", "single"), [("help=1,safe=0", "helpful"), ("help=0,safe=1", "safer")]
)
async def test_a_one_hot_preference_vector_is_the_single_arm(alpha: str, single: str):
    results = [
        await realign(Settings(search=ArmGuided(n=3), arms=arms, max_tokens=14))
        for arms in (by("both", alpha=alpha), by(single), by("helpful", "safer", alpha=alpha))
    ]
    assert slots(results[0]) == slots(results[1]) == slots(results[2])


async def test_greedy_decoding_with_arms_is_prefix_stable():
    short, long = [
        await realign(
            Settings(search=ArmGuided(), arms=by("helpful"), sampling=GREEDY, max_tokens=length)
        )
        for length in (4, 12)
    ]
    assert slots(long)[0][:4] == slots(short)[0][:4]


@pytest.mark.parametrize(
    ("preset", "temperature"), [("genarm-pku", 1.0), ("parm-pku", 0.0), ("uniarm-recon", 0.0)]
)
def test_presets_draw_as_the_papers_do(preset: str, temperature: float):
    assert PRESETS[preset].search == ArmGuided()
    assert PRESETS[preset].sampling == Sampling(temperature=temperature)


# --- records ------------------------------------------------------------------------


async def test_the_record_names_views_readers_and_weights_and_counts_their_tokens():
    arms = by("both", alpha="help=0.7,safe=0.3", weight=1.5)
    settings = Settings(search=BestOfN(n=4), arms=arms, max_tokens=10)
    result = await realign(settings, [GAMES], ToyEngine(BASE, arms=toy().arms))
    record = json.loads(json.dumps(result.to_json()))
    Draft202012Validator(json.loads(schema_text("realigned"))).validate(record)
    assert record["views"] == [
        {"name": "question", "weight": -19.0},
        {"name": "full", "weight": 20.0},
        {
            "name": "arm:both",
            "weight": 1.5,
            "reader": {"arm": "both", "method": "toy", "alpha": {"help": 0.7, "safe": 0.3}},
        },
    ]
    assert record["settings"]["arms"] == {
        "names": ["both"],
        "alpha": "help=0.7,safe=0.3",
        "weight": 1.5,
        "weights": {},
    }
    tokens = sum(len(one) for one in {one.tokens for one in result.candidates})
    assert record["usage"]["scored"] == {"question": tokens, "arm:both": tokens}
    assert record["usage"]["reused"] == tokens


@pytest.mark.parametrize("search", [ArmGuided(n=2), CFG(), Sample(), Greedy(), DVTS()])
async def test_records_of_every_search_are_what_their_schema_says(search: Any):
    preferences = [] if isinstance(search, ArmGuided) else [GAMES]
    settings = Settings(search=search, arms=by("helpful", "safer", safer=-1.0), max_tokens=10)
    result = await realign(settings, preferences)
    schema = Draft202012Validator(json.loads(schema_text("realigned")))
    schema.validate(json.loads(json.dumps(result.to_json())))


async def test_a_given_response_is_read_by_arms_too():
    realigner = Realigner(toy(), Settings(arms=by("helpful", weight=2.0)))
    result = await realigner.score(MESSAGES, [], ["play points.", "sleep"])
    question = result.prompts["question"]
    for one in result.candidates:
        expected = logprob(BASE, question, one.tokens)
        expected += 2 * logprob(HELPFUL, question, one.tokens)
        assert one.score == pytest.approx(expected, abs=1e-9)


class TestToyWithRewardModels(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> ToyEngine:
        return toy()
