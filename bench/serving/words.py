"""Questions of a chosen length in tokens, no two alike, so that none is in a cache."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from preftilt.engines.models import demo_folder
from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import ModelTokenizer, open_tokenizer

WISH = "I dislike anything that is loud or crowded."

QUESTIONS = (
    "How can I make my evenings more fun?",
    "What are some enjoyable ways to study maths?",
    "What could I cook for friends on Friday?",
    "Where should I travel in spring?",
    "How can I get more exercise?",
    "Which pet would suit me?",
)
"""Questions of the bundled model's world."""

SENTENCES = (
    "On Monday we walked along the river and talked about food.",
    "My friend likes to cook with fresh herbs from the garden.",
    "The train was late, so we read a book about music.",
    "After work I play cards with my brother or go for a swim.",
    "Last summer we stayed in a small town near the sea.",
    "It is hard to find time to study when the children are awake.",
    "We want to buy a lamp, a table and two chairs.",
)


@dataclass(slots=True)
class QuestionMaker:
    """Makes questions from a seed; ``tokenizer`` counts their tokens."""

    seed: int
    tokenizer: ModelTokenizer = field(
        default_factory=lambda: open_tokenizer(demo_folder(), EngineOptions())
    )
    _random: random.Random = field(init=False)
    _counter: itertools.count[int] = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._counter = itertools.count(self._random.randrange(1000, 5000))

    def question(self, tokens: int) -> str:
        """A message of at least ``tokens`` tokens and few more; it begins with a number of its own."""
        said = [f"Note {next(self._counter)}."]
        while len(self.tokenizer.chat.encode(" ".join(said))) < tokens:
            said.append(self._random.choice(SENTENCES))
        return " ".join([*said, self._random.choice(QUESTIONS)])

    def tokens(self, length: int) -> tuple[int, ...]:
        """Random ids of ordinary tokens."""
        first = 1 + max(self.tokenizer.raw.added_tokens_decoder)
        size = self.tokenizer.vocabulary.size
        return tuple(self._random.randrange(first, size) for _ in range(length))
