"""What the knob did: shares, agreement, the last change of the winner, and tokens that carry the gain."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

import preftilt as pt
from preftilt.effect import (
    NoteThresholds,
    StrengthEffect,
    effect_notes,
    share_of_lambda,
    strength_effect,
)
from preftilt.path import upper_envelope
from preftilt.reward import IMPOSSIBLE, ScoreLine
from preftilt.rivals import METHODS
from preftilt.testing.toy import ToyEngine

POOL = [ScoreLine(-9.0, 4.0), ScoreLine(-4.0, 1.0), ScoreLine(-2.0, -1.0)]
FLAT = np.full(20, 0.5)


def effect(
    lines: list[ScoreLine] = POOL, gains: np.ndarray = FLAT, lam: float = 3.0, told: bool = True
) -> StrengthEffect:
    path = upper_envelope(lines, start=min(0.0, lam)) if told else ()
    return strength_effect(lines, gains, path, lam, NoteThresholds())


@pytest.mark.parametrize("lam", [0.0, 1.5, 3.0, 20.0, -4.0])
def test_the_share_of_lambda_is_that_of_the_variances(lam: float):
    plain = np.var([line.question_logprob + line.preference_gain for line in POOL])
    tilt = np.var([(lam - 1) * line.preference_gain for line in POOL])
    assert share_of_lambda(POOL, lam) == pytest.approx(tilt / (plain + tilt))


def test_the_share_is_nothing_at_one_and_grows_to_all_of_it():
    shares = [share_of_lambda(POOL, lam) or 0.0 for lam in (1.0, 2.0, 5.0, 20.0, 1e6)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))
    assert share_of_lambda([*POOL, IMPOSSIBLE], 3.0) == share_of_lambda(POOL, 3.0)


@pytest.mark.parametrize("lines", [[], POOL[:1], [POOL[0], IMPOSSIBLE], [POOL[0]] * 3])
def test_there_is_no_share_without_a_choice(lines: list[ScoreLine]):
    assert share_of_lambda(lines, 3.0) is None


def test_the_difference_is_the_mean_gain_whatever_its_sign_and_of_possible_tokens():
    measured = effect(gains=np.array([0.5, -1.5, 1.0, -math.inf]))
    assert (measured.difference, measured.agrees) == (1.0, False)
    assert effect(gains=np.full(3, -math.inf)).difference == 0.0


@pytest.mark.parametrize(("gain", "agrees"), [(0.0, True), (0.099, True), (0.101, False)])
def test_views_agree_below_the_threshold_and_a_note_says_so_and_nothing_else(
    gain: float, agrees: bool
):
    measured = effect(gains=np.full(20, gain), lam=50.0)
    assert measured.agrees is agrees
    assert ("changes nothing here" in effect_notes(measured, 50.0, ["a"] * 20)[0]) is agrees
    gains = np.zeros(40)
    gains[7] = gain
    assert effect(gains=gains).agrees
    gains[7] = 0.5
    assert not effect(gains=gains).agrees


def test_beyond_the_last_change_of_the_winner_a_note_names_it():
    last = upper_envelope(POOL)[-1].start
    assert last == pytest.approx(5 / 3)
    assert effect(lam=1.5).same_from is None
    measured = effect(lam=last + 1)
    assert measured.same_from == last
    [note] = effect_notes(measured, last + 1, ["a"] * 20)
    assert "the same for every λ from 1.67 on" in note


@pytest.mark.parametrize("given", [{"lines": [POOL[0]] * 2}, {"lines": POOL[:1]}, {"told": False}])
def test_where_there_is_nothing_to_change_the_last_change_is_not_told(given: dict):
    assert effect(**given, lam=90.0).same_from is None


def test_few_tokens_that_carry_most_of_the_gain_are_named():
    gains = np.full(20, 0.1)
    gains[[4, 9]] = -3.0, 2.0
    measured = effect(gains=gains, lam=1.0)
    assert (measured.carriers, measured.carried) == ((4, 9), pytest.approx(5.0 / 6.8))
    pieces = [f" w{i}" for i in range(20)]
    pieces[9] = "\x1b"
    [note] = effect_notes(measured, 1.0, pieces)
    assert note == r"2 of 20 tokens of the answer at λ = 1 carry 74% of its gain: “w4”, “\x1b”"
    assert effect(gains=gains[:11]).carriers == ()
    assert effect(gains=FLAT).carriers == ()
    assert effect(gains=gains / 10).carriers == ()


def realign(**settings) -> pt.Realigned:
    question, wish = pt.Message("user", "How do I study maths?"), pt.Preference("No games.")
    values = {"search": pt.BestOfN(n=6), "lam": 30.0, "max_tokens": 16} | settings
    realigner = pt.Realigner(ToyEngine(), pt.Settings(**values))
    return asyncio.run(realigner.realign([question], [wish]))


def test_a_result_tells_its_effect_from_its_own_candidates():
    result = realign(reward=pt.Reward(cut_off="as-is"))
    lines = [
        ScoreLine(candidate.question_logprob, candidate.preference_gain)
        for candidate in result.candidates
    ]
    gains = result.candidates[0].gains
    assert result.effect is not None
    assert result.effect == strength_effect(lines, gains, result.path, 30.0, NoteThresholds())
    assert result.effect.same_from == result.path[-1].start
    assert any("the same for every λ" in note for note in result.notes)
    assert result.to_json()["effect"]["share"] == result.effect.share


def test_where_candidates_depend_on_lambda_or_something_else_picks_the_path_says_nothing():
    for search in (pt.CFG(n=6), pt.DVTS(subtrees=3, width=2)):
        guided = realign(search=search, reward=pt.Reward(cut_off="as-is")).effect
        assert guided is not None
        assert (guided.same_from, guided.share is None) == (None, False)
    picked = realign(method=METHODS["random"]).effect
    assert picked is not None
    assert (picked.share, picked.same_from) == (None, None)
    assert picked.difference > 0


def test_an_answer_that_the_preference_does_not_touch_is_said_to_be_so():
    def blind(context):
        return np.log(np.full(12, 1 / 12)) + 0.0 * len(context)

    question, wish = pt.Message("user", "How?"), pt.Preference("No games.")
    realigner = pt.Realigner(ToyEngine(blind), pt.Settings(search=pt.BestOfN(n=8), max_tokens=8))
    result = asyncio.run(realigner.realign([question], [wish]))
    assert result.effect is not None
    assert (result.effect.difference, result.effect.agrees) == (0.0, True)
    assert (result.effect.share, result.effect.carriers) == (0.0, ())
    assert "this preference changes nothing here" in result.notes[-1]
