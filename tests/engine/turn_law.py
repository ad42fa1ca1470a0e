"""The law of turns, for every scheduler of rows: a request waits for a turn of each other one, not for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from preftilt.engines.base import GuideRequest, SampleRequest
from preftilt.engines.worker import ROWS_PER_TURN
from preftilt.types import Tokens


class Job(Protocol):
    """A request of a scheduler; ``started`` of its slots have begun."""

    started: int

    @property
    def request(self) -> SampleRequest | GuideRequest: ...

    @property
    def future(self) -> Future[list[Any]]: ...


class Scheduler(Protocol):
    """What has rows for fewer slots than its requests have."""

    @property
    def idle(self) -> bool: ...

    def add(self, jobs: list[Any]) -> None: ...

    def step(self) -> None: ...


def one_candidate_waits_for_a_turn_of_every_request(
    scheduler: Scheduler, crowd: Sequence[Job], late: Job, alone: Tokens
) -> None:
    """``late`` asks for one candidate behind ``crowd``, which has begun, and gets what it gets ``alone``."""
    scheduler.add([*crowd])
    for _ in range(4):
        scheduler.step()
    before = [job.started for job in crowd]
    scheduler.add([late])
    while not late.started:
        scheduler.step()
    started = [job.started for job in crowd]
    assert sum(started) - sum(before) <= ROWS_PER_TURN * len(crowd)
    assert max(started) - min(started) <= ROWS_PER_TURN
    while not scheduler.idle:
        scheduler.step()
    for job in crowd:
        assert len(job.future.result()) == len(job.request.slots)
    assert [completion.tokens for completion in late.future.result()] == [alone]
