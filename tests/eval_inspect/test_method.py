"""Methods: the protocol, what the user changes, and what is refused before anything is asked."""

from __future__ import annotations

import pytest

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.eval.harness.benchmark import BenchmarkProtocol, choose_method, one_of, patched
from preftilt.eval.harness.budget import Budget, BudgetSpent
from preftilt.search import DVTS, BestOfN, Greedy

PROTOCOL = BenchmarkProtocol(
    settings={"lambda": 20.0, "temperature": 0.9, "max_tokens": 99},
    searches={"best-of-n": {"n": 16}, "dvts": {"subtrees": 2, "width": 3}},
)


def settings(**arguments: object) -> Settings:
    return patched(Settings(), choose_method(PROTOCOL, **arguments).settings)  # pyright: ignore[reportArgumentType]


def test_the_protocol_holds_where_nothing_is_said() -> None:
    chosen = choose_method(PROTOCOL)
    assert chosen.chosen == ()
    found = patched(Settings(), chosen.settings)
    assert (found.lam, found.search, found.max_tokens) == (20.0, BestOfN(n=16), 99)


def test_the_user_changes_the_protocol() -> None:
    chosen = choose_method(PROTOCOL, lam=3, n=4, settings='{"reduction": "mean"}')
    assert chosen.chosen == ("lambda", "reduction", "search")
    found = patched(Settings(), chosen.settings)
    assert (found.lam, found.search, found.reward.reduction) == (3.0, BestOfN(n=4), "mean")


def test_another_search_comes_with_the_protocols_settings_for_it() -> None:
    assert settings(search="dvts").search == DVTS(subtrees=2, width=3)


def test_of_the_protocol_a_search_takes_what_it_can_use() -> None:
    found = settings(search="greedy")
    assert found.search == Greedy()
    assert found.sampling.temperature == Settings().sampling.temperature


def test_of_the_user_a_search_refuses_what_it_cannot_use() -> None:
    with pytest.raises(BadInput, match="temperature does not apply"):
        settings(search="greedy", settings={"temperature": 0.5})


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"settings": "[1]"}, "settings must be a JSON object"),
        ({"settings": "{"}, "not JSON"),
        ({"settings": {"lamda": 3}}, r'settings: unknown field "lamda"; did you mean "lambda"'),
        ({"lam": 3, "settings": {"lambda": 4}}, "lambda is given twice"),
        ({"n": 3, "settings": {"search": {"n": 4}}}, "n is given twice"),
        ({"search": "dvts", "n": 3}, "n does not apply to the search 'dvts'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        settings(**arguments)


def test_a_choice_that_there_is_not_is_refused_with_those_there_are() -> None:
    assert one_of("form", "a", ("a", "b")) == "a"
    with pytest.raises(BadInput, match="form is 'c'; it must be one of a, b"):
        one_of("form", "c", ("a", "b"))


def test_a_budget_counts_and_then_refuses() -> None:
    budget = Budget(max_judge_calls=1, max_tokens_total=10)
    budget.take_judge_call()
    with pytest.raises(BudgetSpent, match="1 judge calls is spent"):
        budget.take_judge_call()
    budget.give_back_judge_call()
    budget.spend(10)
    with pytest.raises(BudgetSpent, match="10 tokens is spent"):
        budget.check_tokens()
    with pytest.raises(BadInput, match="max_judge_calls is -1"):
        Budget(max_judge_calls=-1)
