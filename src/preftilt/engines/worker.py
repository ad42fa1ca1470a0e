"""The worker thread of an engine whose model runs in this process, and how the requests that wait there take turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from contextvars import copy_context
from functools import wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from preftilt.engines.base import Increment
from preftilt.engines.waiting import Channel, together
from preftilt.errors import EngineError

ROWS_PER_TURN = 8
"""Rows that a request starts in one turn: enough to share the prefill of its prompt."""


def rows_by_turn_end(started: int, slots: int, *, alone: bool) -> int:
    """How many of its ``slots`` a request with ``started`` rows may have started at the end of its turn.

    Requests that wait for rows take turns, so that one with 64 candidates does not block one with a single candidate.
    alone: no other request waits, so that it may start all of them.
    """
    return slots if alone else min(slots, (started // ROWS_PER_TURN + 1) * ROWS_PER_TURN)


class WorkerJob(Protocol):
    """A request, the future that its caller awaits, and the tokens that are done."""

    @property
    def request(self) -> Any: ...

    @property
    def future(self) -> Future[Any]: ...

    @property
    def done(self) -> int: ...


class StreamedJob(WorkerJob, Protocol):
    """A job that calls back with what it draws."""

    on_increment: Callable[[Increment], None] | None


P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
J = TypeVar("J", bound=WorkerJob)
J_contra = TypeVar("J_contra", bound=WorkerJob, contravariant=True)


class StepScheduler(Protocol[J_contra]):
    """Runs jobs step by step; called in the worker's thread alone."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until a job is added."""
        ...

    def add(self, jobs: Iterable[J_contra]) -> None:
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


class Worker(Generic[J]):
    """Runs a scheduler's steps while there is work; takes jobs from any thread or event loop.

    A failed step fails the jobs at hand; the thread goes on. engine: its name in errors. remedy: what to do about
    them. within: a context in which the thread runs. last: called in it at the end.
    """

    def __init__(
        self,
        engine: str,
        scheduler: StepScheduler[J],
        *,
        remedy: str = "",
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
        last: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._remedy = remedy
        self._within = within
        self._last = last
        self._inbox: list[J] = []
        self._changed = threading.Condition()
        self._closed = False
        self._forgetting = False
        self._under_way: dict[int, J] = {}
        self._thread = threading.Thread(target=self._run, name=f"preftilt-{engine}", daemon=True)
        self._thread.start()

    async def results(self, jobs: Mapping[K, J]) -> dict[K, Any]:
        """Submit jobs together and await their results; the first failure, or cancelling the caller, cancels all."""
        with self._submitted([*jobs.values()]):
            done = await together(asyncio.wrap_future(job.future) for job in jobs.values())
        return dict(zip(jobs, done, strict=True))

    async def increments(self, job: J) -> AsyncGenerator[Increment, None]:
        """Submit a job that draws, and yield its increments; closing the generator cancels it."""
        channel: Channel[Increment] = Channel()
        drawing: StreamedJob = job  # pyright: ignore[reportAssignmentType]
        drawing.on_increment = channel.put
        with self._submitted([job]):
            async with aclosing(channel.until(job.future)) as increments:
                async for increment in increments:
                    yield increment

    def progress(self, request: object) -> int:
        """Tokens done for a request that is under way; else 0."""
        job = self._under_way.get(id(request))
        return job.done if job else 0

    def forget(self) -> None:
        """Empty the prefix cache before the next step."""
        with self._changed:
            self._forgetting = True
            self._changed.notify()

    def close(self) -> None:
        """Stop after the current step; unfinished jobs fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @contextmanager
    def _submitted(self, jobs: Sequence[J]) -> Iterator[None]:
        """Queue jobs, which share their first step; within the block :meth:`progress` finds them by their requests."""
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed; open it again")
            self._inbox.extend(jobs)
            self._changed.notify()
        self._under_way.update({id(job.request): job for job in jobs})
        try:
            yield
        finally:
            for job in jobs:
                self._under_way.pop(id(job.request), None)

    def _run(self) -> None:
        with self._within():
            while self._round():
                pass
            self._last()

    def _round(self) -> bool:
        """Wait for work and run a step of it; False if the worker was closed."""
        scheduler = self._scheduler
        with self._changed:
            while not (self._inbox or self._forgetting or self._closed) and scheduler.idle:
                self._changed.wait()
            new, self._inbox = self._inbox, []
            closed = self._closed
            if self._forgetting:
                scheduler.forget()
                self._forgetting = False
        if closed:
            error = EngineError("the engine was closed while the request was under way")
            for job in new:
                settle(job.future, error)
            scheduler.abort(error)
            return False
        try:
            scheduler.add(new)
            scheduler.step()
        except Exception as error:  # Fail the waiting callers and keep the thread alive.
            scheduler.abort(self._failure(error))
        return True

    def _failure(self, error: Exception) -> EngineError:
        failure = EngineError(f"the {self._engine} engine failed: {error!r}{self._remedy}")
        failure.__cause__ = error
        return failure


def in_own_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Let ``function`` compute in a thread that ends with it.

    The threads that OpenMP computes with belong to the thread that calls them, and only while all of them together are
    no more than there are cores do they wait for work without falling asleep, from which waking takes longer than a
    small layer. Those of a thread that has opened a model would count until the process ends, beside the worker's.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        future: Future[T] = Future()

        def compute() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # The caller's, whatever it is.
                future.set_exception(error)

        thread = threading.Thread(target=copy_context().run, args=(compute,), daemon=True)
        thread.start()
        thread.join()
        return future.result()

    return run


def settle(future: Future[Any], result: object) -> None:
    """Set a future's result or exception, unless it is done or cancelled."""
    if not future.done() and future.set_running_or_notify_cancel():
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
