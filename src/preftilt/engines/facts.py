"""What people can read of an engine: what a probe found out, and how replicas do."""

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


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How a replica does, for people and for ``/metrics``.

    load: sequences under way. calls, failed: how many it was given, and how many of them came back undone.
    """

    name: str
    up: bool
    load: int
    calls: int
    failed: int
    reason: str


@runtime_checkable
class Replicated(Protocol):
    """An engine that may be several of the same model."""

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """How each of them does; empty where there is one alone."""
        ...


class ServerRefused(BadInput):
    """A server cannot do what is needed; ``facts`` is what was found out before that was clear."""

    def __init__(self, message: str, facts: tuple[Fact, ...]) -> None:
        super().__init__(message)
        self.facts = facts
