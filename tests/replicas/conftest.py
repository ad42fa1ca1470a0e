"""Replicas on machines that can be switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from preftilt.engines.replicas import Replicas, open_replicas
from preftilt.engines.replicas.health import WatchIntervals
from tests.replicas.machines import Machine

QUICK = WatchIntervals(ask=0.02, answer=0.1, first=0.01, longest=0.02, opening=5.0)

Together = Callable[..., Replicas]


@pytest.fixture
def machines() -> list[Machine]:
    return [Machine(f"m{i}") for i in range(4)]


@pytest.fixture
def together() -> Iterator[Together]:
    """Opens replicas on machines, with any bound."""
    engines: list[Replicas] = []

    def engine(
        machines: Sequence[Machine], *, free: int = 64, pace: WatchIntervals = QUICK
    ) -> Replicas:
        openers = {one.name: one.open for one in machines}
        engines.append(open_replicas(openers, pace, free=free))
        for one in machines:
            one.prompts.clear()
        return engines[-1]

    yield engine
    for one in engines:
        one.close()
