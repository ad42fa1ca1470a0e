"""How many rows of a batch groups may ask for at a time: a semaphore that is acquired several rows at once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager


class RowSemaphore:
    """``total`` rows, held by callers on any event loop, first come, first served."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, rows: int) -> AsyncIterator[None]:
        """Hold ``rows`` of them, at most ``total``; waits behind whoever came before."""
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.append((rows, turn))
            self._let_in()
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            self._leave(rows, turn)
            raise
        try:
            yield
        finally:
            self._give_back(rows)

    def _leave(self, rows: int, turn: Future[None]) -> None:
        """Whoever waits no longer: its turn may have come in the same moment."""
        with self._lock:
            if (rows, turn) in self._waiting:
                self._waiting.remove((rows, turn))
                self._let_in()
                return
        self._give_back(rows)

    def _give_back(self, rows: int) -> None:
        with self._lock:
            self._free += rows
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            rows, turn = self._waiting.popleft()
            self._free -= rows
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
