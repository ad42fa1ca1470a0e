"""What a search is: settings, and plans that say what to grow next.

A plan is a pure generator: it yields the nodes to expand, is sent their children, and returns what it found. It
never awaits, samples, scores with a model, logs or reads a clock, so it can be tested with children written by hand.
Plans of one search do not look at each other and run concurrently; ``conclude`` joins what they found.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from preftilt.types import Candidate, Expand, Outcome

Score = Callable[[Candidate], float]
"""S(τ) of a whole or partial response, in nats; −inf for one that must not win."""

Plan = Generator[Expand, list[Candidate], Outcome]
"""Yields a node to expand, is sent its children in slot order, returns its outcome."""


@runtime_checkable
class Search(Protocol):
    """The settings of a search, a frozen dataclass; ``name`` is its name on the command line and in results."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    @property
    def candidates(self) -> int:
        """How many responses are drawn to completion at most: what the search costs, in samples."""
        ...

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        """Independent plans that start at ``root`` and spend at most ``max_tokens`` tokens on a response."""
        ...

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        """Join the plans' outcomes, given in the order of ``plans``."""
        ...


def rank(candidates: Sequence[Candidate], score: Score) -> tuple[Candidate, ...]:
    """Best first: finished before unfinished, then by score; the first drawn wins ties."""
    scores = [score(candidate) for candidate in candidates]
    order = sorted(range(len(scores)), key=lambda i: (not candidates[i].finished, -scores[i], i))
    return tuple(candidates[i] for i in order)


def best(children: Sequence[Candidate], score: Score) -> Candidate:
    """The child to go on with: highest score, first on ties; one cut off by its budget only if all were."""
    scores = [score(child) for child in children]
    cut_off = [child.finish == "length" for child in children]
    return children[min(range(len(scores)), key=lambda i: (cut_off[i], -scores[i], i))]
