"""Stopping in order: told to, the server takes no more work, says so at ``/ready``, finishes what it has, and leaves.

uvicorn alone would close its address at once, and a load balancer would learn that from its clients' failures.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from preftilt.server.admission_queue import AdmissionQueue

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
