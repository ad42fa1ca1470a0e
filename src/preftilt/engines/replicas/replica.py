"""One replica: what it is at, and whether it is trusted. All of it happens on one event loop."""

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
"""Opens the engine anew; called in a thread."""

LOG = logging.getLogger("preftilt.engines.replicas")

FAILURES = 3
"""Calls that fail in a row until a replica counts as lost, whatever it answers when it is asked."""

ReplicaState = Literal["up", "doubted", "down"]


@dataclass(slots=True, kw_only=True)
class Replica:
    """An engine that may be lost and come back.

    state: ``up``: it is given work; ``doubted``: a call failed, and it is being asked whether it is still there;
    ``down``: it has no engine, for the ``reason``. load: sequences under way. calls, failed: how many it was given, and
    how many of them came back undone. wake: its watcher is needed. settled: it is not in doubt.
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
    _in_a_row: int = 0
    _tasks: set[asyncio.Future[Any]] = field(default_factory=set)

    @property
    def standing(self) -> ReplicaStatus:
        """How it does."""
        up = self.state != "down"
        return ReplicaStatus(self.name, up, self.load, self.calls, self.failed, self.reason)

    async def run(self, work: Callable[[Engine], Coroutine[Any, Any, T]], weight: int) -> T:
        """Have ``work`` done here; only while it is up.

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
            here = asyncio.current_task()
            if here is not None and here.cancelling():
                raise
            self.failed += 1
            raise EngineError(f"{self.name} was lost while it worked: {self.reason}") from None
        except EngineError as failure:
            self.failed += 1
            self._doubt(counts=not isinstance(failure, EngineTimeout))
            raise
        finally:
            self._tasks.discard(task)
            self.load -= weight
        self._in_a_row = 0
        return result

    def _doubt(self, *, counts: bool) -> None:
        """A call failed: no work until it has been asked whether it is still there.

        counts: whether the failure speaks against the replica. Its words are not kept: other callers would read them.
        """
        self._in_a_row += counts
        if self._in_a_row >= FAILURES:
            self.lose(f"{FAILURES} calls in a row failed there")
        elif self.state == "up":
            self.state, self.reason = "doubted", "a call failed there"
            self.settled.clear()
            self.wake.set()

    def trust(self) -> None:
        """It is still there."""
        if self.state == "doubted":
            self.state, self.reason = "up", ""
            self.settled.set()

    def lose(self, reason: str) -> None:
        """It is not there any more: what it is at fails, so that others can do it."""
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
            # Closing may wait for connections that nobody answers on.
            threading.Thread(target=engine.close, daemon=True).start()

    def join(self, engine: Engine) -> None:
        """It is there, as ``engine``."""
        self.engine = engine
        self.state, self.reason = "up", ""
        self._in_a_row = 0
        self.settled.set()
