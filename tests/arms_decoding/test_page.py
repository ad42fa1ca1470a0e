"""The server's page weighs records in which reward models read along as the package does."""

from __future__ import annotations

import asyncio

import pytest

from preftilt.api import Settings
from preftilt.search import BestOfN
from preftilt.types import Preference
from tests.arms_decoding.toys import by, realign
from tests.page.javascript import run_js

SCRIPT = """
const { asStrengths, lineOf, readCandidates, scoreAt, tokenGains } = await load("score");
const strengths = asStrengths(data.settings.preferences.map((one) => one.strength));
const candidates = readCandidates(data);
return {
  scores: candidates.map((one) => [
    one.slot, scoreAt(lineOf(one, strengths.ratios), strengths.lambda),
  ]),
  gains: tokenGains(candidates[0], strengths.ratios),
};
"""


def test_scores_with_reward_models_are_those_of_the_record():
    arms = by("both", "safer", alpha="help=0.7,safe=0.3", weight=1.5, safer=-0.5)
    settings = Settings(lam=4.0, search=BestOfN(n=8), arms=arms, max_tokens=10)
    wishes = [Preference("win points"), Preference("sleep", -2.0)]
    result = asyncio.run(realign(settings, wishes))
    record = result.to_json() | {"pieces": [list(one) for one in result.pieces]}
    said = run_js(SCRIPT, record)
    scores = {one.slot: one.score for one in result.candidates}
    assert len({round(one, 6) for one in scores.values()}) > 2
    for slot, score in said["scores"]:
        assert score == pytest.approx(scores[slot])
    assert said["gains"] == pytest.approx(list(result.candidates[0].gains))
