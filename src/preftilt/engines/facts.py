"""What an engine reports about itself to people: facts found by its probe, and the status of replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from preftilt.errors import BadInput


@dataclass(frozen=True, slots=True)
class Fact:
    """One result of a probe: the question, the answer, and what follows from it."""

    question: str
    answer: str
    meaning: str = ""


@runtime_checkable
class Probed(Protocol):
    """An engine that was probed when it was opened."""

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The results of the probe."""
        ...

    @property
    def plan(self) -> tuple[str, ...]:
        """How the engine draws and scores, a line each."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The status of a replica, for people and for ``/metrics``.

    load: running sequences. calls, failed: how many it was given, and how many of them failed.
    """

    name: str
    up: bool
    load: int
    calls: int
    failed: int
    reason: str


@runtime_checkable
class Replicated(Protocol):
    """An engine that may consist of several replicas."""

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """The status of each replica; empty where there is only one engine."""
        ...


class ServerRefused(BadInput):
    """A server lacks a needed ability; ``facts`` are the results of its probe up to then."""

    def __init__(self, message: str, facts: tuple[Fact, ...]) -> None:
        super().__init__(message)
        self.facts = facts
