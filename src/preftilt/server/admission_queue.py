"""Which request works next: clients take turns, so that one with many requests does not keep others waiting.

Only the order depends on the client; an answer does not.

The server stops in order: told to, it takes no more work, says so at ``/ready``, finishes what it has, and leaves.
uvicorn alone would close its address at once, and a load balancer would learn that from its clients' failures.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp, Scope

from preftilt.server.failures import overloaded, stopping


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """Where one request stands in the queue."""

    state: Literal["waiting", "working", "refused"] = "waiting"
    _decided: asyncio.Event = field(default_factory=asyncio.Event)

    async def come(self) -> None:
        """Returns when the request may work; raises if it had to make room for another client's (429)."""
        await self._decided.wait()
        if self.state == "refused":
            raise overloaded()

    def decide(self, state: Literal["working", "refused"]) -> None:
        """Ends the waiting."""
        self.state = state
        self._decided.set()


@dataclass(slots=True)
class ClientQueue:
    """What one client has here. served: the number of its request that began to work last; 0 for none."""

    working: int = 0
    served: int = 0
    waiting: deque[QueuedRequest] = field(default_factory=deque)


@dataclass(slots=True)
class AdmissionQueue:
    """Lets ``running`` requests work at a time and ``waiting`` more wait; refuses the rest; all, once ``closed``.

    A place that becomes free goes to the client with the fewest requests at work, among equals to the one served
    longest ago; a client's own requests keep their order. Where the queue is full, the newest request of the client
    with the most waiting is refused, so that one client's full queue does not shut others out.
    """

    running: int
    waiting: int
    admitted: int = 0
    closed: bool = False
    _working: int = 0
    _begun: int = 0
    _clients: dict[str, ClientQueue] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether as many requests are here as may be."""
        return self.admitted >= self.running + self.waiting

    @contextmanager
    def admit(self, name: str) -> Iterator[QueuedRequest]:
        """The turn of a request of the client ``name``, who leaves at the end of the block.

        Raises at once if there is no room (429) or the server stops (503).
        """
        if self.closed:
            raise stopping()
        client = self._clients.get(name, ClientQueue())
        if self.full:
            self._make_room_for(client)
        self._clients[name] = client
        turn = QueuedRequest()
        self.admitted += 1
        client.waiting.append(turn)
        self._begin()
        try:
            yield turn
        finally:
            self._leave(client, turn)
            self._begin()
            idle = not client.working and not client.waiting
            if idle and self._clients.get(name) is client:
                del self._clients[name]

    def _make_room_for(self, newcomer: ClientQueue) -> None:
        """Refuse the newest request of whoever has more of them waiting than the newcomer would have."""
        longest = max(self._clients.values(), key=lambda client: len(client.waiting))
        if len(longest.waiting) <= len(newcomer.waiting) + 1:
            raise overloaded()
        longest.waiting.pop().decide("refused")
        self.admitted -= 1

    def _begin(self) -> None:
        """Give a free place, if there is one, to the request whose turn it is."""
        waiting = [client for client in self._clients.values() if client.waiting]
        if not waiting or self._working == self.running:
            return
        client = min(waiting, key=lambda client: (client.working, client.served))
        client.waiting.popleft().decide("working")
        client.working += 1
        self._working += 1
        self._begun += 1
        client.served = self._begun

    def _leave(self, client: ClientQueue, turn: QueuedRequest) -> None:
        if turn.state == "refused":
            return
        self.admitted -= 1
        if turn.state == "waiting":
            client.waiting.remove(turn)
        else:
            client.working -= 1
            self._working -= 1


def client_of(scope: Scope) -> str:
    """Who sent a request: the address at the other end of its connection, for all clients have the same key."""
    host, _ = scope.get("client") or ("", 0)
    return host


LOOK_SECONDS = 0
"""uvicorn looks whether it may stop once a second; it is asked to do so every time."""


@dataclass(slots=True)
class Stopping:
    """When a server may leave. ``grace``: seconds to finish what is under way."""

    queue: AdmissionQueue
    grace: int
    server: uvicorn.Server | None = None
    _signal: int = 0
    _since: float = 0.0

    def told(self, sig: int, frame: FrameType | None) -> None:
        """A signal came: leave once nothing is under way; at a second one, at once."""
        again, self.queue.closed = self.queue.closed, True
        self._signal, self._since = sig, time.monotonic()
        if again or not self.queue.admitted:
            self._leave(0 if again else self.grace)

    async def look(self) -> None:
        """Leave if everything is done, or the grace is over."""
        if not self.queue.closed:
            return
        left = self.grace - (time.monotonic() - self._since)
        if left <= 0 or not self.queue.admitted:
            self._leave(max(0, math.ceil(left)))

    def _leave(self, patience: int) -> None:
        """Close the address; answers on their way have ``patience`` seconds."""
        assert self.server is not None
        self.server.config.timeout_graceful_shutdown = patience
        uvicorn.Server.handle_exit(self.server, self._signal, None)


def stoppable(app: ASGIApp, queue: AdmissionQueue, grace: int) -> uvicorn.Server:
    """A server that stops in order; ``queue`` is the application's."""
    stopping = Stopping(queue, grace)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=grace,
        callback_notify=stopping.look,
        timeout_notify=LOOK_SECONDS,
    )
    stopping.server = uvicorn.Server(config)
    stopping.server.handle_exit = stopping.told
    return stopping.server
