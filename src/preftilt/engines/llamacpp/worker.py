"""The engine's one thread: it owns the context, takes requests from any thread or event loop, and outlives failures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue

from preftilt.engines.llamacpp.jobs import LlamaJob
from preftilt.engines.llamacpp.scheduler import LlamaCppScheduler
from preftilt.errors import EngineError

CLOSED = "the llama.cpp engine was closed"


class LlamaCppWorker:
    """Runs a scheduler's turns while there is work; ``None`` in its mail means that no more will come."""

    def __init__(self, scheduler: LlamaCppScheduler) -> None:
        self._scheduler = scheduler
        self._mail: SimpleQueue[Sequence[LlamaJob] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="preftilt-llamacpp", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[LlamaJob]) -> None:
        """Hand over requests; together, so that they share their first batch."""
        with self._closing:
            if self._closed:
                raise EngineError(f"{CLOSED}; open it again")
            self._mail.put(jobs)

    def close(self) -> None:
        """Stop after the batch under way; what is unfinished fails, and the context's memory is given back."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._mail.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        scheduler = self._scheduler
        while True:
            while scheduler.idle or not self._mail.empty():
                letter = self._mail.get()
                if letter is None:
                    scheduler.abort(EngineError(f"{CLOSED} while the request was under way"))
                    scheduler.context.close()
                    return
                scheduler.add(letter)
            try:
                scheduler.turn()
            except Exception as error:  # Nobody may be left waiting, and the thread goes on.
                scheduler.abort(_failure(error))


def _failure(error: Exception) -> EngineError:
    wrapped = EngineError(
        f"the llama.cpp engine failed: {error}; fewer rows at a time (max_rows) need less memory"
    )
    wrapped.__cause__ = error
    return wrapped
