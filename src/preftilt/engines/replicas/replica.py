"""One replica: its state and its load. It belongs to one event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from preftilt.engines.base import Engine
from preftilt.engines.facts import ReplicaStatus
from preftilt.errors import EngineError, EngineTimeout

T = TypeVar("T")
OpenReplica = Callable[[], Engine]
"""Opens the engine; called in a thread."""

LOG = logging.getLogger("preftilt.engines.replicas")

MAX_FAILURES = 3
"""Calls that fail in a row until a replica is down, even if it answers pings."""

ReplicaState = Literal["up", "suspect", "down"]


@dataclass(slots=True, kw_only=True)
class Replica:
    """An engine that may be lost and come back.

    state: ``up``: it gets requests; ``suspect``: a call failed, and it is being pinged; ``down``: it has no engine, for
    the ``reason``. load: running sequences. calls, failed: how many it was given, and how many of them failed. wake:
    wakes its watcher. settled: set while it is not ``suspect``.
    """

    name: str
    open: OpenReplica
    engine: Engine | None = None
    state: ReplicaState = "down"
    reason: str = ""
    load: int = 0
    calls: int = 0
    failed: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    _failures_in_a_row: int = 0
    _tasks: set[asyncio.Future[Any]] = field(default_factory=set)

    @property
    def status(self) -> ReplicaStatus:
        """Its status for people and metrics."""
        up = self.state != "down"
        return ReplicaStatus(self.name, up, self.load, self.calls, self.failed, self.reason)

    async def run(self, work: Callable[[Engine], Coroutine[Any, Any, T]], weight: int) -> T:
        """Run ``work`` on this replica, which must be up.

        Raises what the engine raises, and :class:`~preftilt.errors.EngineError` if the replica is lost meanwhile.
        """
        assert self.engine is not None
        task = asyncio.ensure_future(work(self.engine))
        self._tasks.add(task)
        self.load += weight
        self.calls += 1
        try:
            result = await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            self.failed += 1
            raise EngineError(f"{self.name} was lost while it worked: {self.reason}") from None
        except EngineError as failure:
            self.failed += 1
            self._suspect(counts_as_failure=not isinstance(failure, EngineTimeout))
            raise
        finally:
            self._tasks.discard(task)
            self.load -= weight
        self._failures_in_a_row = 0
        return result

    def _suspect(self, *, counts_as_failure: bool) -> None:
        """A call failed: no requests until a ping is answered.

        counts_as_failure: whether it counts towards :data:`MAX_FAILURES`. The message is not kept: other callers would
        see it.
        """
        self._failures_in_a_row += counts_as_failure
        if self._failures_in_a_row >= MAX_FAILURES:
            self.mark_down(f"{MAX_FAILURES} calls in a row failed there")
        elif self.state == "up":
            self.state, self.reason = "suspect", "a call failed there"
            self.settled.clear()
            self.wake.set()

    def clear_suspicion(self) -> None:
        """A ping was answered."""
        if self.state == "suspect":
            self.state, self.reason = "up", ""
            self.settled.set()

    def mark_down(self, reason: str) -> None:
        """The replica is lost: its running calls fail, so that other replicas can repeat them."""
        engine, self.engine = self.engine, None
        if self.state == "down":
            return
        LOG.warning("%s is lost: %s", self.name, reason)
        self.state, self.reason = "down", reason
        for task in self._tasks:
            task.cancel()
        self.settled.set()
        self.wake.set()
        if engine is not None:
            # Closing may wait for dead connections.
            threading.Thread(target=engine.close, daemon=True).start()

    def mark_up(self, engine: Engine) -> None:
        """The replica is up, as ``engine``."""
        self.engine = engine
        self.state, self.reason = "up", ""
        self._failures_in_a_row = 0
        self.settled.set()
