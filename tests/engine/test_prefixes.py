"""The prefix tree finds what a search through everything finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preftilt.engines.prefixes import PrefixTree
from preftilt.engines.transformers.prefix_cache import CachedPrompt, PrefixCache, layers_bytes
from preftilt.types import Reader, Tokens

runs = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)


def shared(first: Tokens, second: Tokens) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


@given(st.lists(st.tuples(st.booleans(), runs), max_size=30), st.lists(runs, min_size=1))
def test_the_longest_shared_beginning_is_found_whatever_came_and_went(
    changes: list[tuple[bool, Tokens]], asked: list[Tokens]
) -> None:
    tree: PrefixTree[Tokens] = PrefixTree()
    stored: set[Tokens] = set()
    for comes, tokens in changes:
        if comes:
            tree.add(tokens, tokens)
            stored.add(tokens)
        elif tokens in stored:
            tree.remove(tokens)
            stored.remove(tokens)
        else:
            with pytest.raises(KeyError):
                tree.remove(tokens)
    for tokens in asked:
        length, found = tree.nearest(tokens)
        assert length == max((shared(tokens, known) for known in stored), default=0)
        if found is None:
            assert length == 0
        else:
            assert found in stored
            assert shared(tokens, found) == length
    for tokens in stored:
        tree.remove(tokens)
    assert tree.empty


def test_one_in_many_thousands_is_found_by_reading_its_own_tokens() -> None:
    class Counted(int):
        """A token that counts how often it is compared."""

        read = 0

        def __eq__(self, other: object) -> bool:
            Counted.read += 1
            return int(self) == other

        __hash__ = int.__hash__

    tree: PrefixTree[int] = PrefixTree()
    head = tuple(range(40))
    for number in range(5_000):
        tree.add((*head, number // 70, number % 70), number)
    wanted = tuple(map(Counted, (*head, 33, 7)))
    Counted.read = 0
    assert tree.nearest(wanted) == (42, 33 * 70 + 7)
    assert Counted.read < 1_000


def test_a_store_keeps_nothing_of_readers_whose_prompts_were_dropped() -> None:
    layer = (torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
    store = PrefixCache(capacity=3 * layers_bytes({0: layer}))
    for number in range(50):
        reader = Reader("arm", (number / 50, 1 - number / 50))
        store.add_prompt(CachedPrompt((1, 2, 3, number), {0: layer}, torch.zeros(9), reader))
    assert len(store._items) == len(store._prompts) == 3
    store.clear()
    assert not store._prompts
