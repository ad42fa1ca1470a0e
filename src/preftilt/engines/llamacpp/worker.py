"""The engine's worker thread: owns the context, takes jobs from any thread or event loop, survives failures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue

from preftilt.engines.llamacpp.jobs import LlamaJob
from preftilt.engines.llamacpp.scheduler import LlamaCppScheduler
from preftilt.errors import EngineError

CLOSED = "the llama.cpp engine was closed"


class LlamaCppWorker:
    """Runs a scheduler's steps while there is work; ``None`` in its inbox tells it to stop."""

    def __init__(self, scheduler: LlamaCppScheduler) -> None:
        self._scheduler = scheduler
        self._inbox: SimpleQueue[Sequence[LlamaJob] | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="preftilt-llamacpp", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[LlamaJob]) -> None:
        """Queue jobs; those submitted together share their first batch."""
        with self._closing:
            if self._closed:
                raise EngineError(f"{CLOSED}; open it again")
            self._inbox.put(jobs)

    def close(self) -> None:
        """Stop after the current batch; unfinished jobs fail, and the context's memory is freed."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        scheduler = self._scheduler
        while True:
            while scheduler.idle or not self._inbox.empty():
                jobs = self._inbox.get()
                if jobs is None:
                    scheduler.abort(EngineError(f"{CLOSED} while the request was under way"))
                    scheduler.context.close()
                    return
                scheduler.add(jobs)
            try:
                scheduler.step()
            except Exception as error:  # Fail the waiting callers and keep the thread alive.
                scheduler.abort(_failure(error))


def _failure(error: Exception) -> EngineError:
    wrapped = EngineError(
        f"the llama.cpp engine failed: {error}; fewer rows at a time (max_rows) need less memory"
    )
    wrapped.__cause__ = error
    return wrapped
