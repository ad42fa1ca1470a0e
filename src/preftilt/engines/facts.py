"""What a probe found out about a server, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from preftilt.errors import BadInput


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing the probe found out: what was asked, the answer, and what follows from it."""

    question: str
    answer: str
    meaning: str = ""


@runtime_checkable
class Probed(Protocol):
    """An engine that was probed when it was opened."""

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What was found out."""
        ...

    @property
    def plan(self) -> tuple[str, ...]:
        """How the engine draws and scores, a line each."""
        ...


class ServerRefused(BadInput):
    """A server cannot do what is needed; ``facts`` is what was found out before that was clear."""

    def __init__(self, message: str, facts: tuple[Fact, ...]) -> None:
        super().__init__(message)
        self.facts = facts
