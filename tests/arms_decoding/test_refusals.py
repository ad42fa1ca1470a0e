"""What reward models cannot do is refused before the first token, with the remedy; on the toy model."""

from __future__ import annotations

from typing import Any

import pytest

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.search import ArmGuided
from preftilt.testing.toy import ToyEngine
from tests.arms_decoding.toys import BASE, GAMES, by, realign, toy


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (by("nobody"), "toy has no reward model 'nobody' open; it has helpful, safer, both, even"),
        (by("both"), "weighs help and safe: say how much each counts, e.g. --alpha help=0.5,safe"),
        (by("both", alpha="help=0.7,safe=0.4"), "alpha sums to 1.1; its numbers must sum to 1"),
        (by("both", alpha="help=0.7,humour=0.3"), "alpha names humour, unknown here; the objecti"),
        (by("both", alpha="help=1"), "alpha leaves out safe"),
        (by("both", alpha="help=1.5,safe=-0.5"), "alpha of safe is -0.5"),
        (by("helpful", "safer", alpha="help=1"), "alpha leaves out safe"),
        (by("helpful", safer=2.0), "arm_weight names safer; in use are helpful"),
        (by(alpha="help=1"), "none is named; name one"),
        (by(weight=2.0), "none is named; name one"),
    ],
)
async def test_what_arms_cannot_do_is_refused_before_the_first_token(arms: Any, message: str):
    engine = toy()
    with pytest.raises(BadInput, match=message):
        await realign(Settings(arms=arms), [GAMES], engine)
    assert engine.counts == {"sampled": 0, "scored": 0}


def test_weights_that_are_no_numbers_and_names_given_twice_are_refused():
    with pytest.raises(BadInput, match="arm_weight of helpful is nan"):
        by("helpful", helpful=float("nan"))
    with pytest.raises(BadInput, match="named twice: helpful, helpful"):
        by("helpful", "helpful")


async def test_an_engine_without_arms_says_how_to_open_one():
    with pytest.raises(BadInput, match=r"toy has no reward model 'helpful' open: open one with"):
        await realign(Settings(arms=by("helpful")), [GAMES], ToyEngine(BASE))


async def test_the_search_with_arms_needs_one():
    with pytest.raises(BadInput, match="the search 'arm' draws with reward models, and none"):
        await realign(Settings(search=ArmGuided()), [GAMES])


async def test_without_preference_and_arm_the_model_answers_as_it_is():
    result = await realign(Settings())
    assert (result.settings["search"]["name"], result.lam, result.effect) == ("sample", 1.0, None)
    assert [view.name for view in result.views] == ["question"]
