"""Searches are pure plans: fed by hand, their every decision can be checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput
from preftilt.search import DVTS, BestOfN, Greedy, Sample, Score, Search
from preftilt.types import Candidate, CutOff, Expand, Finish, Outcome, Step

ROOT = Candidate((), np.zeros((2, 0)), "step")


def grow(parent: Candidate, tokens: tuple[int, ...], finish: Finish) -> Candidate:
    whole = parent.tokens + tokens
    return Candidate(whole, np.zeros((2, len(whole))), finish)


def drive(
    search: Search,
    children: Callable[[Expand], list[Candidate]],
    score_of: Callable[[Candidate], float],
    max_tokens: int = 100,
    cut_off: CutOff = "last",
) -> tuple[Outcome, list[Expand]]:
    """Run every plan with children made by hand; also returns what was asked for."""
    score = Score(lambda pool: [score_of(candidate) for candidate in pool], cut_off)
    expansions: list[Expand] = []
    outcomes = []
    for plan in search.plans(ROOT, score, max_tokens):
        try:
            expand = next(plan)
            while True:
                expansions.append(expand)
                expand = plan.send(children(expand))
        except StopIteration as end:
            outcomes.append(end.value)
    return search.conclude(outcomes, score), expansions


def by_last_token(candidate: Candidate) -> float:
    return float(candidate.tokens[-1])


def test_best_of_n_asks_once_and_ranks_what_comes_back():
    def children(expand: Expand) -> list[Candidate]:
        return [grow(expand.parent, (value,), "eos") for value in (3, 9, 9, 1)]

    outcome, expansions = drive(BestOfN(n=4), children, by_last_token)
    assert [expand.slots for expand in expansions] == [(0, 1, 2, 3)]
    assert expansions[0].step is None
    assert [candidate.tokens[-1] for candidate in outcome.ranked] == [9, 9, 3, 1]


def test_an_unfinished_response_wins_only_if_none_finished():
    def children(expand: Expand) -> list[Candidate]:
        return [
            grow(expand.parent, (9,), "length"),
            grow(expand.parent, (2,), "eos"),
            grow(expand.parent, (5,), "length"),
        ]

    outcome, _ = drive(BestOfN(n=3), children, by_last_token)
    assert [candidate.tokens[-1] for candidate in outcome.ranked] == [2, 9, 5]


def test_an_unfinished_response_may_win_by_its_score_if_it_is_asked_for_as_is():
    def children(expand: Expand) -> list[Candidate]:
        return [grow(expand.parent, (2,), "eos"), grow(expand.parent, (9,), "length")]

    outcome, _ = drive(BestOfN(n=2), children, by_last_token, cut_off="as-is")
    assert [candidate.tokens[-1] for candidate in outcome.ranked] == [9, 2]


def test_the_pool_of_a_step_is_its_children_and_of_the_answer_the_leaves():
    pools: list[list[tuple[int, ...]]] = []

    def children(expand: Expand) -> list[Candidate]:
        finish: Finish = "eos" if expand.parent.tokens else "step"
        return [grow(expand.parent, (slot,), finish) for slot in expand.slots]

    def of(pool: Sequence[Candidate]) -> list[float]:
        pools.append([candidate.tokens for candidate in pool])
        return [float(candidate.tokens[-1]) for candidate in pool]

    search, score = DVTS(subtrees=2, width=2), Score(of, "last")
    leaves = []
    for plan in search.plans(ROOT, score, 9):
        expand = plan.send(children(next(plan)))
        with pytest.raises(StopIteration) as end:
            plan.send(children(expand))
        leaves.append(end.value.value)
    search.conclude(leaves, score)
    assert pools == [
        [(0,), (1,)],
        [(1, 0), (1, 1)],
        [(2,), (3,)],
        [(3, 2), (3, 3)],
        [(1, 1), (3, 3)],
    ]


def test_a_constant_score_keeps_the_first_drawn():
    def children(expand: Expand) -> list[Candidate]:
        return [grow(expand.parent, (value,), "eos") for value in (4, 5, 6)]

    outcome, _ = drive(BestOfN(n=3), children, lambda _: 0.0)
    assert [candidate.tokens for candidate in outcome.ranked] == [(4,), (5,), (6,)]


# A golden tree, two subtrees wide: each expansion's children, by (first slot, parent's tokens).
GOLDEN: dict[tuple[int, tuple[int, ...]], list[tuple[tuple[int, ...], Finish]]] = {
    (0, ()): [((1, 10), "step"), ((2, 12), "step")],
    (0, (2, 12)): [((3, 7), "step"), ((4, 5), "eos")],
    (0, (2, 12, 3, 7)): [((5, 20), "eos"), ((6, 30), "length")],
    (2, ()): [((7, 40), "eos"), ((8, 39), "step")],
}


def golden_children(expand: Expand) -> list[Candidate]:
    made = GOLDEN[expand.slots[0], expand.parent.tokens]
    return [grow(expand.parent, tokens, finish) for tokens, finish in made]


def test_dvts_grows_the_golden_tree():
    outcome, expansions = drive(DVTS(subtrees=2, width=2), golden_children, by_last_token)
    assert [(expand.slots, expand.parent.tokens) for expand in expansions] == [
        ((0, 1), ()),
        ((0, 1), (2, 12)),
        ((0, 1), (2, 12, 3, 7)),
        ((2, 3), ()),
    ]
    # Subtree 0's best-scored last child was cut off by the budget, so its finished sibling ends the path.
    assert [candidate.tokens for candidate in outcome.ranked] == [(7, 40), (2, 12, 3, 7, 5, 20)]
    assert outcome.steps == 3
    assert outcome.stopped == "end of the response"


def test_dvts_with_a_reversed_score_takes_the_other_path():
    def children(expand: Expand) -> list[Candidate]:
        finish: Finish = "eos" if len(expand.parent.tokens) == 2 else "step"
        return [grow(expand.parent, (value,), finish) for value in (5, 3, 8)]

    outcome, _ = drive(DVTS(subtrees=1, width=3), children, lambda one: -by_last_token(one))
    assert outcome.ranked[0].tokens == (3, 3, 3)


def test_the_last_step_of_dvts_runs_to_the_end_of_the_response():
    def children(expand: Expand) -> list[Candidate]:
        finish: Finish = "step" if expand.step else "eos"
        return [grow(expand.parent, (1,), finish) for _ in expand.slots]

    outcome, expansions = drive(DVTS(subtrees=1, width=2, max_steps=3), children, by_last_token)
    assert [expand.step for expand in expansions] == [Step("\n"), Step("\n"), None]
    assert outcome.ranked[0].finished


def test_dvts_spends_no_more_than_its_token_budget_and_never_loops():
    def children(expand: Expand) -> list[Candidate]:
        assert expand.max_tokens > 0
        return [grow(expand.parent, (1,), "step") for _ in expand.slots]

    outcome, expansions = drive(DVTS(subtrees=1, width=2, max_steps=50), children, by_last_token, 5)
    assert len(expansions) == 5
    assert outcome.ranked[0].finish == "length"
    assert outcome.stopped == "token budget spent"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 3))
def test_every_subtree_s_answer_is_a_path_of_its_own_children(values, subtrees, width):
    def children(expand: Expand) -> list[Candidate]:
        depth = len(expand.parent.tokens)
        finish: Finish = "eos" if depth + 1 == len(values) else "step"
        return [grow(expand.parent, (10 * slot + values[depth],), finish) for slot in expand.slots]

    outcome, expansions = drive(DVTS(subtrees=subtrees, width=width), children, by_last_token)
    assert len(outcome.ranked) == subtrees
    assert len(expansions) == subtrees * len(values)
    for leaf in outcome.ranked:
        trees = {token // 10 // width for token in leaf.tokens}
        assert len(trees) == 1


def test_greedy_and_sample_draw_one_response():
    def children(expand: Expand) -> list[Candidate]:
        return [grow(expand.parent, (1,), "eos")]

    for search in (Greedy(), Sample()):
        _, [expand] = drive(search, children, by_last_token)
        assert expand.slots == (0,)
        assert expand.greedy == (search.name == "greedy")
        assert search.candidates == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BestOfN(n=0), "n of .* at least 1"),
        (lambda: DVTS(subtrees=0), "subtrees of .* at least 1"),
        (lambda: DVTS(width=-1), "width of .* at least 1"),
        (lambda: DVTS(max_steps=0), "max_steps of .* at least 1"),
        (lambda: DVTS(delimiter=""), "delimiter"),
    ],
)
def test_searches_refuse_what_they_cannot_do(make, message):
    with pytest.raises(BadInput, match=message):
        make()
