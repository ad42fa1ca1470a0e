"""Replicas on machines that can be switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from preftilt.engines.replicas import Replicas, open_replicas
from preftilt.engines.replicas.replica import WatchIntervals
from tests.replicas.machines import Machine

QUICK = WatchIntervals(
    between_pings=0.02, ping_timeout=0.1, first_retry=0.01, longest_retry=0.02, open_timeout=5.0
)

Together = Callable[..., Replicas]


@pytest.fixture
def machines() -> list[Machine]:
    return [Machine(f"m{i}") for i in range(4)]


@pytest.fixture
def together() -> Iterator[Together]:
    """Opens replicas on machines, with any bound."""
    engines: list[Replicas] = []

    def engine(
        machines: Sequence[Machine], *, free: int = 64, intervals: WatchIntervals = QUICK
    ) -> Replicas:
        openers = {one.name: one.open for one in machines}
        engines.append(open_replicas(openers, intervals, free_load=free))
        for one in machines:
            one.prompts.clear()
        return engines[-1]

    yield engine
    for one in engines:
        one.close()
