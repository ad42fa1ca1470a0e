"""What the members of a group have drawn, and how much of it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from preftilt.engines.vocabulary import Vocabulary
from preftilt.types import Finish, Tokens


def refusals(vocabulary: Vocabulary, members: int) -> Tokens:
    """A token for each member that it draws where its group is not in step: ids that are drawn as seldom as possible.

    Ids that no text stands behind, then the highest, where vocabularies have special and rare tokens. Drawing one in
    step costs an attempt and changes nothing.
    """
    rare = (token for token in range(vocabulary.size - 1, -1, -1) if token not in vocabulary.holes)
    usable = [token for token in (*vocabulary.holes, *rare) if token not in vocabulary.eos]
    return tuple(usable[:members])


@dataclass(eq=False, slots=True)
class Attempt:
    """What the members of a group have drawn so far, and how much of it counts.

    room: tokens that may be drawn. ends: is given every token that counts, with its log-probs [K], and says why the
    response ends with it; None if it goes on. refused: the members' refusals. over: nothing more of it will count.
    outcome: why the response ended; None if it goes on in another attempt. counted: tokens that count. drawn: all that
    each member has drawn.
    """

    members: int
    room: int
    ends: Callable[[int, list[float]], Finish | None]
    refused: Tokens
    outcome: Finish | None = None
    over: bool = False
    counted: int = 0
    drawn: list[list[int]] = field(init=False)
    _logprobs: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.drawn = [[] for _ in range(self.members)]
        self._logprobs = [[] for _ in range(self.members)]

    def take(self, member: int, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """New tokens of a member, with their log-probs under its view."""
        self.drawn[member] += tokens
        self._logprobs[member] += logprobs
        while not self.over and all(len(tokens) > self.counted for tokens in self.drawn):
            self._count()

    def _count(self) -> None:
        place = self.counted
        here = {tokens[place] for tokens in self.drawn}
        if len(here) > 1:
            self.over = True
            return
        self.counted += 1
        [token] = here
        self.outcome = self.ends(token, [row[place] for row in self._logprobs])
        if self.outcome is None and self.counted == self.room:
            self.outcome = "length"
        self.over = self.outcome is not None or token in self.refused
