"""A toy model whose vocabulary can vote and give verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import preftilt as pt
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams

WORDS = ("<end>", "\n", "A", "B", ".", "play", "Preferred:", " Yes", "Yes", " No", "No", "s")
"""With letters to vote for and the words of a verdict; " yes" and its like cannot be spelled by one token."""

SPELLED = (*WORDS, " yes", "yes", " no", "no")

QUESTION = (pt.Message("user", "A or B?"),)
WISH = (pt.Preference("No games."),)


def toy(seed: int = 3, **changes: Any) -> ToyEngine:
    """An engine that can spell every verdict."""
    tokenizer = ToyTokenizer(words=SPELLED)
    return ToyEngine(hashed_bigrams(seed, len(SPELLED)), tokenizer=tokenizer, **changes)


Ask = Callable[..., pt.Realigned]


@pytest.fixture
def ask() -> Ask:
    """Realign the question on a toy engine by a method."""

    def ask(
        method: Any,
        *,
        engine: ToyEngine | None = None,
        judges: Any = None,
        item: str | None = None,
        preferences: Any = WISH,
        **settings: Any,
    ) -> pt.Realigned:
        chosen = pt.Settings(
            **({"max_tokens": 12, "lam": 3.0, "search": pt.BestOfN()} | settings), method=method
        )
        realigner = pt.Realigner(engine or toy(), chosen, judges=judges)
        return pt.run_sync(realigner.realign(QUESTION, preferences, item=item))

    return ask
