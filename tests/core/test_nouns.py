"""Nouns check themselves: what cannot be, and what would make a record lie, is refused where it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest

import preftilt as pt
from preftilt.declare import declarations
from preftilt.errors import BadInput
from preftilt.rivals import METHODS, ByJudge, ByLogprob, ByVote
from preftilt.search import ARGS, CFG, SEARCHES, Amulet
from preftilt.server.resolve import ServerConfig
from preftilt.types import Mask, RewardGuide, Sampling, Step

WRONG: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (Sampling, {"temperature": -1}),
    (Sampling, {"temperature": math.nan}),
    (Sampling, {"temperature": math.inf}),
    (Sampling, {"temperature": True}),
    (Sampling, {"top_p": 0}),
    (Sampling, {"top_p": 1.1}),
    (Sampling, {"top_k": -1}),
    (pt.Settings, {"max_tokens": 0}),
    (pt.Settings, {"lam": math.inf}),
    (pt.BestOfN, {"n": 0}),
    (pt.BestOfN, {"n": True}),
    (pt.DVTS, {"width": 0}),
    (pt.DVTS, {"delimiter": ""}),
    (CFG, {"mask_top_p": 0}),
    (CFG, {"mask_top_p": 0.5, "mask_temperature": 0}),
    (Amulet, {"eta": 0}),
    (Amulet, {"iterations": -1}),
    (ARGS, {"shortlist": 0}),
    (ARGS, {"weight": math.nan}),
    (ByLogprob, {"name": "dvts"}),
    (ByVote, {"name": "rear"}),
    (ByJudge, {"judge_tokens": 0}),
    (ByJudge, {"judge_temperature": -0.1}),
    (Step, {"delimiter": ""}),
    (Mask, {"top_p": 2}),
    (RewardGuide, {"weight": 1.0, "shortlist": 0}),
    (ServerConfig, {"model": "m", "max_concurrency": 0}),
    (ServerConfig, {"model": "m", "timeout_s": 0}),
    (ServerConfig, {"model": "m", "deadline_s": -1}),
]


@pytest.mark.parametrize(("noun", "given"), WRONG)
def test_a_noun_that_cannot_be_is_refused(noun: Callable[..., Any], given: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        noun(**given)


def test_a_whole_number_is_no_fraction_and_no_truth_value() -> None:
    [n] = declarations(pt.BestOfN)
    for value in (2.0, True, "2"):
        with pytest.raises(BadInput, match="n must be a whole number of at least 1"):
            n.check(value, "n")


def test_a_setting_of_one_choice_names_it_alone() -> None:
    @dataclass(frozen=True)
    class Fixed:
        unit: Literal["nats"] = "nats"

    [unit] = declarations(Fixed)
    with pytest.raises(BadInput, match=r"^unit must be nats, not 'bits'$"):
        unit.check("bits", "unit")


def test_the_name_of_a_search_or_method_of_one_kind_is_no_argument() -> None:
    kinds = [*SEARCHES.values(), *{type(method) for method in METHODS.values()}]
    named = [
        kind for kind in kinds for field in fields(kind) if field.name == "name" and field.init
    ]
    assert set(named) == {ByLogprob, ByVote}
    with pytest.raises(TypeError):
        pt.BestOfN(name="dvts")  # pyright: ignore[reportCallIssue]
