"""What counts of a group's tokens, in whatever order its members' news come."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from preftilt.engines.lockstep.groups import Attempt, refusals
from preftilt.engines.vocabulary import Vocabulary
from preftilt.types import Finish, Tokens

EOS = 2
REFUSED = (8, 9)


def attempt(room: int = 10) -> tuple[Attempt, list[int], list[list[float]]]:
    """An attempt of two members, and the tokens and log-probs that count."""
    tokens: list[int] = []
    columns: list[list[float]] = []

    def ends(token: int, logprobs: list[float]) -> Finish | None:
        tokens.append(token)
        columns.append(logprobs)
        return "eos" if token == EOS else None

    return Attempt(2, room, ends, REFUSED), tokens, columns


def take(attempt: Attempt, member: int, tokens: Sequence[int]) -> None:
    attempt.take(member, tokens, [-float(token + 10 * member) for token in tokens])


def test_a_token_counts_once_all_members_have_drawn_it():
    group, tokens, columns = attempt()
    take(group, 0, [3, 4, 5])
    assert tokens == []
    take(group, 1, [3])
    assert tokens == [3]
    take(group, 1, [4, 5])
    assert tokens == [3, 4, 5]
    assert columns == [[-3.0, -13.0], [-4.0, -14.0], [-5.0, -15.0]]
    assert not group.over


@pytest.mark.parametrize(
    ("first", "second", "counted", "outcome"),
    [
        ((3, EOS), (3, EOS), [3, EOS], "eos"),
        ((3, 8), (3, 9), [3], None),
        ((3, 4, 8), (3, 9), [3], None),
        ((4,), (9,), [], None),
        ((3, EOS), (3, 9), [3], None),
        ((3, 8), (3, 8), [3, 8], None),
        ((3, 4, 5, 6), (3, 4, 5, 6), [3, 4, 5, 6], "length"),
    ],
    ids=[
        "the answer ended",
        "both fell out of step",
        "one went ahead on a half-read prompt",
        "so it did at once",
        "one ended alone",
        "a refusal was drawn in step",
        "there is no more room",
    ],
)
def test_what_counts_does_not_depend_on_whose_news_come_first(first, second, counted, outcome):
    news = [(0, token) for token in first] + [(1, token) for token in second]
    for places in itertools.combinations(range(len(news)), len(first)):
        group, tokens, _ = attempt(room=4)
        mine, others = iter(first), iter(second)
        for place in range(len(news)):
            member = 0 if place in places else 1
            take(group, member, [next(mine if member == 0 else others)])
        assert tokens == counted
        assert (group.outcome, group.counted) == (outcome, len(counted))
        assert group.over


def test_nothing_counts_behind_the_end():
    group, tokens, _ = attempt()
    take(group, 0, [3, EOS, 5])
    take(group, 1, [3, EOS, 5])
    assert tokens == [3, EOS]


def test_refusals_are_distinct_and_seldom_drawn():
    class Words:
        def pieces(self, tokens: Tokens) -> list[str]:
            return [str(token) for token in tokens]

    words: object = Words()
    known = Vocabulary(10, (4,), frozenset({9}), words)  # pyright: ignore[reportArgumentType]
    assert refusals(known, 3) == (4, 8, 7)
