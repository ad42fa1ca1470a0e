"""Comparisons in the toy vocabulary, and reward models that can be written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from preftilt.eval.accuracy.comparisons import (
    Comparison,
    Example,
    ScoringSetup,
    TokenisedComparison,
    make_context,
)
from preftilt.messages import Message
from preftilt.rivals import Judges
from preftilt.rivals.reward_models import Pair, RewardScores
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference

TEXTS = ("draw", "read maths", "play points win", "sleep", "not maths.", "win win", "points")


def comparison(number: int = 0, **changed: Any) -> Comparison:
    chosen, *others = (TEXTS[(number + i) % len(TEXTS)] for i in range(4))
    given: dict[str, Any] = {
        "id": f"{number}",
        "user": f"user {number // 3}",
        "group": "even" if number % 2 == 0 else "odd",
        "messages": (Message("user", f"question {number}"),),
        "preferences": (Preference(f"preference {number // 3}"),),
        "chosen": chosen,
        "rejected": tuple(others),
        "examples": (Example("before?", "draw"), Example("and then?", "read")),
        "place": f"row {number}",
    }
    return Comparison(**given | changed)


COMPARISONS = tuple(comparison(number) for number in range(12))


@dataclass(frozen=True, slots=True)
class Counting:
    """A reward model: how often a word occurs, less a tenth of the length. ``asked`` notes how many texts it read."""

    word: str = "win"
    name: str = "counting"
    asked: list[int] = field(default_factory=list)

    @property
    def versions(self) -> dict[str, str]:
        return {}

    def check(self, messages: Sequence[Message]) -> None:
        pass

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        self.asked.append(len(pairs))
        return RewardScores(tuple(text.count(self.word) - len(text) / 10 for _, text in pairs))

    def close(self) -> None:
        pass


def reading(engine: ToyEngine | None = None, **given: Any) -> ScoringSetup:
    judges = Judges(reward_model=Counting())
    return ScoringSetup(engine=engine or ToyEngine(), **{"judges": judges, **given})


def context(
    number: int = 0, engine: ToyEngine | None = None, **changed: Any
) -> TokenisedComparison:
    return make_context(reading(engine), comparison(number, **changed))
