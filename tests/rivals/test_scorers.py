"""Scorers that are functions: how they are named, and what they may not do."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

import preftilt as pt
from preftilt import plugins
from preftilt.errors import BadInput, EngineError
from preftilt.rivals import ByRewardModel, Judges, reward_models
from preftilt.rivals.reward_models import Pair, open_reward_model
from tests.rivals.conftest import QUESTION, Ask

PLACE = "tests.rivals.test_scorers"


def brevity(pairs: Sequence[Pair]) -> list[float]:
    return [-float(len(response)) for _, response in pairs]


async def patience(pairs: Sequence[Pair]) -> list[float | None]:
    return [None if "A" in response else float(len(response)) for _, response in pairs]


def hears_the_preference(pairs: Sequence[Pair]) -> list[float]:
    return [float(messages[0].content == "No games.") for messages, _ in pairs]


def too_few(pairs: Sequence[Pair]) -> list[float]:
    return []


def no_number(pairs: Sequence[Pair]) -> list[float]:
    return [float("nan") for _ in pairs]


def broken(pairs: Sequence[Pair]) -> list[float]:
    raise ZeroDivisionError("oh")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package had added scorers: installing one takes longer than a test may."""
    points = [
        EntryPoint("brevity", f"{PLACE}:brevity", reward_models.SCORERS),
        EntryPoint("gone", "no_such_module:scorer", reward_models.SCORERS),
    ]

    def entry_points(*, group: str) -> EntryPoints:
        return EntryPoints(point for point in points if point.group == group)

    monkeypatch.setattr(plugins, "entry_points", entry_points)


def test_a_function_of_one_s_own_picks(ask: Ask) -> None:
    result = ask(ByRewardModel(), judges=Judges(reward_model=open_reward_model(f"{PLACE}:brevity")))
    ended = [len(candidate.text) for candidate in result.candidates if candidate.finish == "eos"]
    assert ended == sorted(ended)
    assert result.method == {"name": "reward-model", "model": f"{PLACE}:brevity", "missing": 0}


def test_it_may_be_async_and_may_have_no_score(ask: Ask) -> None:
    model = open_reward_model(f"{PLACE}:patience")
    result = ask(ByRewardModel(), judges=Judges(reward_model=model))
    assert result.method is not None
    assert (
        result.method["missing"]
        == sum("A" in candidate.text for candidate in result.candidates)
        > 0
    )
    ended = [candidate for candidate in result.candidates if candidate.finish == "eos"]
    assert ["A" in candidate.text for candidate in ended] == sorted(
        "A" in candidate.text for candidate in ended
    )


def test_it_reads_the_preference(ask: Ask) -> None:
    model = open_reward_model(f"{PLACE}:hears_the_preference")
    result = ask(ByRewardModel(), judges=Judges(reward_model=model))
    assert all(
        candidate.method and candidate.method.score == 1.0 for candidate in result.candidates
    )


@pytest.mark.usefixtures("installed")
def test_a_package_s_scorer_goes_by_its_name() -> None:
    rated = pt.run_sync(open_reward_model("brevity").score([(QUESTION, "abc")]))
    assert rated.scores == (-3.0,)
    with pytest.raises(EngineError, match="reinstall or remove it"):
        open_reward_model("gone")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("too_few", "0 scores for 1 responses"),
        ("no_number", "not finite"),
        ("broken", "ZeroDivisionError: oh"),
    ],
)
def test_a_scorer_that_misbehaves_is_an_error_and_no_score(name: str, words: str) -> None:
    model = open_reward_model(f"{PLACE}:{name}")
    with pytest.raises(EngineError, match=words):
        pt.run_sync(model.score([(QUESTION, "abc")]))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:scorer", "cannot be imported"),
        (f"{PLACE}:nothing", "has no nothing"),
        (f"{PLACE}:PLACE", "is no function"),
        ("http://127.0.0.1:1", "say which kind of server"),
        (" ", "no reward model is named"),
    ],
)
def test_a_spec_that_leads_nowhere_is_refused(spec: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        open_reward_model(spec)


def test_a_method_without_its_model_is_refused(ask: Ask) -> None:
    with pytest.raises(BadInput, match="--reward-model SPEC"):
        ask(ByRewardModel())


def test_options_mean_nothing_to_a_function() -> None:
    options: Any = pt.EngineOptions(dtype="bfloat16")
    with pytest.raises(BadInput, match="--dtype does not apply to a scorer"):
        open_reward_model(f"{PLACE}:brevity", options)
