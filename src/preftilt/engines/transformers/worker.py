"""The engine's worker thread: owns the model, takes jobs from any thread or event loop, survives failures."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

from preftilt.engines.transformers.jobs import Job, settle
from preftilt.errors import EngineError


class ExecutionPath(Protocol):
    """A way to run jobs: :class:`TransformersScheduler` or :class:`ExpandedPath`."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until a job is added."""
        ...

    def add(self, jobs: Iterable[Job]) -> None:
        """Queue new jobs."""
        ...

    def step(self) -> None:
        """One round of forwards."""
        ...

    def abort(self, error: Exception) -> None:
        """Fail all jobs."""
        ...

    def forget(self) -> None:
        """Empty the prefix cache; running jobs are not affected."""
        ...


class TransformersWorker:
    """Runs a path's steps while there is work."""

    def __init__(self, path: ExecutionPath) -> None:
        self._path = path
        self._inbox: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._forgetting = False
        self._thread = threading.Thread(target=self._run, name="preftilt-transformers", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; those submitted together share their first forward."""
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed; open it again")
            self._inbox.extend(jobs)
            self._changed.notify()

    def forget(self) -> None:
        """Empty the path's prefix cache before the next step."""
        with self._changed:
            self._forgetting = True
            self._changed.notify()

    def close(self) -> None:
        """Stop after the current forward; unfinished jobs fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._inbox or self._forgetting or self._closed) and self._path.idle:
                    self._changed.wait()
                new, self._inbox = self._inbox, []
                closed = self._closed
                if self._forgetting:
                    self._path.forget()
                    self._forgetting = False
            if closed:
                return self._give_up(new)
            try:
                self._path.add(new)
                self._path.step()
            except (
                Exception
            ) as error:  # A bug of ours: fail the waiting callers and keep the thread alive.
                wrapped = EngineError(f"the transformers engine failed: {error!r}")
                wrapped.__cause__ = error
                self._path.abort(wrapped)

    def _give_up(self, new: Sequence[Job]) -> None:
        error = EngineError("the engine was closed while the request was under way")
        for job in new:
            settle(job.future, error)
        self._path.abort(error)
