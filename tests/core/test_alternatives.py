"""The likeliest tokens at a place of an answer: exact on the toy engine, whose distributions can be written down."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import preftilt as pt
from preftilt.alternatives import Alternatives, likely_alternatives
from preftilt.arm.spec import Objective
from preftilt.errors import BadInput
from preftilt.guided import adapted, combine, masked
from preftilt.settings import ArmSettings
from preftilt.testing.toy import ToyArm, ToyEngine, hashed_bigrams
from preftilt.types import Mask
from tests.server.odd import Odd

QUESTION = [pt.Message("user", "How do I study maths?")]
DISLIKE = (pt.Preference("I dislike games."),)
PREFIX = (4, 9)
MODEL = hashed_bigrams(1)


def alternatives(
    preferences: tuple[pt.Preference, ...] = DISLIKE,
    *,
    count: int = 3,
    include: int | None = None,
    engine: pt.Engine | None = None,
    **settings: Any,
) -> Alternatives:
    realigner = pt.Realigner(engine or ToyEngine(MODEL))
    changed = pt.Settings(**{"max_tokens": 16, "lam": 3.0, "search": pt.BestOfN()} | settings)
    prepared = realigner.prepare(QUESTION, preferences, settings=changed, prefix=PREFIX)
    work = likely_alternatives(realigner.engine, prepared, count=count, include=include)
    return asyncio.run(work)


def distributions(preferences: tuple[pt.Preference, ...] = DISLIKE) -> np.ndarray:
    """The next token's log-probs under the question's view and every preference's [K, V]."""
    query = pt.Realigner(ToyEngine(MODEL)).prepare(QUESTION, preferences).query
    return np.stack([MODEL(view.prompt + PREFIX) for view in query.views])


def test_tokens_are_told_under_both_views_and_as_guided_decoding_mixes_them() -> None:
    told = alternatives(count=3)
    raw = distributions()
    mixed = combine(raw, (-2.0, 3.0))
    expected = {int(v) for row in (*raw, mixed) for v in np.argsort(-row)[:3]}
    assert {alternative.token for alternative in told.tokens} == expected
    assert told.weights == {"question": -2.0, "full": 3.0}
    chances = [alternative.mixed for alternative in told.tokens]
    assert chances == sorted(chances, reverse=True)
    for alternative in told.tokens:
        assert alternative.mixed == pytest.approx(mixed[alternative.token])
        assert [*alternative.logprobs.values()] == pytest.approx(raw[:, alternative.token])
        assert alternative.ends is (alternative.token == 0)


def test_all_tokens_together_are_a_distribution_under_every_view_and_mixed() -> None:
    told = alternatives(count=100)
    for name in ("question", "full"):
        total = sum(np.exp(alternative.logprobs[name]) for alternative in told.tokens)
        assert total == pytest.approx(1.0)
    assert sum(np.exp(alternative.mixed) for alternative in told.tokens) == pytest.approx(1.0)


def test_a_token_that_stands_there_is_told_however_unlikely() -> None:
    last = int(np.argmin(distributions()[1]))
    assert last not in {alternative.token for alternative in alternatives(count=1).tokens}
    told = alternatives(count=1, include=last)
    assert last in {alternative.token for alternative in told.tokens}
    with pytest.raises(BadInput, match="token 12345 is not in"):
        alternatives(include=12345)


def test_several_preferences_and_the_searchs_own_mixing_are_honoured() -> None:
    both = (pt.Preference("I dislike games.", 2.0), pt.Preference("Sleep.", -1.0))
    told = alternatives(both, count=100)
    mixed = combine(distributions(both), (0.0, 2.0, -1.0))
    assert list(told.weights.values()) == [0.0, 2.0, -1.0]
    assert [alternative.mixed for alternative in told.tokens] == pytest.approx(
        [mixed[alternative.token] for alternative in told.tokens]
    )
    raw = distributions()
    by_divergence = alternatives(count=100, search=pt.CFG(strength_by="divergence"))
    mixed = combine(raw, adapted(raw, (-2.0, 3.0)))
    assert by_divergence.tokens[0].mixed == pytest.approx(mixed.max())
    inside = alternatives(count=100, search=pt.CFG(mask_top_p=0.5))
    left = masked(combine(raw, (-2.0, 3.0)), raw[1], Mask(top_p=0.5))
    left = left - np.logaddexp.reduce(left)
    assert [alternative.mixed for alternative in inside.tokens] == pytest.approx(
        [left[alternative.token] for alternative in inside.tokens]
    )
    assert np.isneginf([alternative.mixed for alternative in inside.tokens]).any()


def test_who_cannot_tell_says_so() -> None:
    with pytest.raises(BadInput, match="does not tell its likeliest next tokens"):
        alternatives(engine=Odd())
    arm = ToyArm((Objective("help", "It helps.", 1.0),), lambda alpha: hashed_bigrams(2))
    with pytest.raises(BadInput, match="a reward model reads these answers, too"):
        alternatives(engine=ToyEngine(MODEL, arms={"arm": arm}), arms=ArmSettings(names=("arm",)))
