"""A replica: its state and load, which belong to one event loop; its model, the same as the others'; its watch."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, ReplicaStatus, ScoreRequest
from preftilt.engines.scored_by import rendered_samples
from preftilt.errors import BadInput, EngineError, EngineTimeout
from preftilt.types import Tokens

SCORED = 8
"""Tokens whose log-probs are compared."""

SAME_MODEL = 0.1
"""Mean difference (nats a token) up to which log-probs are of the same weights: 16-bit engines differ by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What identifies an engine's model.

    prompts: a few texts rendered by its tokenizer and template. logprobs: [T] nats of the first tokens of one of them
    after another.
    """

    name: str
    model: str
    capabilities: Capabilities
    prompts: tuple[Tokens, ...]
    logprobs: Float[np.ndarray, "T"]

    def difference(self, other: ModelIdentity) -> str | None:
        """Why ``other`` is not the same model, in half a sentence; None if it is."""
        ours, theirs = self.capabilities, other.capabilities
        if other.model != self.model:
            return f"it serves {other.model}, not {self.model}"
        if (ours.eos, ours.turn_end) != (theirs.eos, theirs.turn_end):
            return "its responses end with other tokens"
        if self.prompts != other.prompts:
            return "it has another tokenizer or chat template"
        gap = float(np.abs(self.logprobs - other.logprobs).mean())
        if gap > SAME_MODEL:
            return f"log-probs of the same text differ by {gap:.2g} nats a token, so its weights are others"
        return None


async def identify(engine: Engine) -> ModelIdentity:
    """The identity of an engine; scores a few tokens. Raises what the engine raises."""
    prompts = rendered_samples(engine.tokenizer)
    completion = prompts[-1][:SCORED]
    [logprobs] = await engine.score([ScoreRequest(prompt=prompts[0], completion=completion)])
    return ModelIdentity(
        name=engine.name,
        model=engine.model,
        capabilities=engine.capabilities,
        prompts=prompts,
        logprobs=logprobs,
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchIntervals:
    """Times in seconds.

    between_pings: interval of pings. ping_timeout: of a ping. first_retry, longest_retry: delay before reopening a lost
    replica, doubled with every attempt. open_timeout: of an attempt.
    """

    between_pings: float = 5.0
    ping_timeout: float = 15.0
    first_retry: float = 0.5
    longest_retry: float = 30.0
    open_timeout: float = 300.0


async def watch_replica(replica: Replica, wanted: ModelIdentity, intervals: WatchIntervals) -> None:
    """Watch a replica for as long as the engine is open; to come back it must agree with ``wanted``."""
    while True:
        if replica.state == "down":
            await _reopen(replica, wanted, intervals)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(replica.wake.wait(), intervals.between_pings)
            replica.wake.clear()
            await _ping(replica, intervals)


async def open_in_thread(work: OpenReplica) -> Engine:
    """Run ``work`` in a thread; if its caller was cancelled meanwhile, the engine is closed again."""
    future: Future[Engine] = Future()

    def run() -> None:
        try:
            engine = work()
        except BaseException as failure:
            with suppress(InvalidStateError):
                future.set_exception(failure)
            return
        try:
            future.set_result(engine)
        except InvalidStateError:
            engine.close()

    threading.Thread(target=run, name="preftilt-opening", daemon=True).start()
    return await asyncio.wrap_future(future)


async def _ping(replica: Replica, intervals: WatchIntervals) -> None:
    engine = replica.engine
    if engine is None:
        return
    try:
        async with asyncio.timeout(intervals.ping_timeout):
            await engine.ping()
    except TimeoutError:
        replica.mark_down(
            f"no answer within {intervals.ping_timeout:g} s when asked whether it is there"
        )
    except Exception as failure:  # Engines from other packages may raise anything.
        replica.mark_down(str(failure))
    else:
        replica.clear_suspicion()


async def _reopen(replica: Replica, wanted: ModelIdentity, intervals: WatchIntervals) -> None:
    """Reopen a replica until it agrees with ``wanted``."""
    down_since, delay = time.monotonic(), intervals.first_retry
    while True:
        await asyncio.sleep(delay)
        delay = min(2 * delay, intervals.longest_retry)
        try:
            async with asyncio.timeout(intervals.open_timeout):
                engine = await open_in_thread(replica.open)
                await _check_identity(engine, wanted)
        except TimeoutError:
            replica.reason = f"it could not be opened within {intervals.open_timeout:g} s"
        except Exception as failure:
            _record_failure(replica, failure)
        else:
            replica.mark_up(engine)
            LOG.warning("%s is back after %.0f s", replica.name, time.monotonic() - down_since)
            return


async def _check_identity(engine: Engine, wanted: ModelIdentity) -> None:
    """Refuse, and close, an engine that differs from the others or lacks their abilities."""
    try:
        identity = await identify(engine)
        difference = wanted.difference(identity) or _shortfall(wanted, identity)
        if difference is not None:
            raise BadInput(f"{engine.name} stays out: {difference}")
    except BaseException:
        engine.close()
        raise


def _shortfall(wanted: ModelIdentity, identity: ModelIdentity) -> str | None:
    """The ability that this replica lacks, in half a sentence: abilities cannot change while the engine is open."""
    promised, able = wanted.capabilities, identity.capabilities
    if able.max_context < promised.max_context:
        return f"its context is {able.max_context} tokens, less than {promised.max_context}"
    if (promised.sampler_logprobs and not able.sampler_logprobs) or (
        promised.guided_logprobs and not able.guided_logprobs
    ):
        return "its log-probs of drawing do not stand in for scores, as they do elsewhere"
    if promised.keyed_streams and not able.keyed_streams:
        return "its draws depend on its batches"
    if (promised.guides and not able.guides) or (promised.proposes and not able.proposes):
        return "it does not give control over every token, as others do"
    if promised.images and not able.images:
        return "it sees no images, as others do"
    return None


def _record_failure(replica: Replica, failure: Exception) -> None:
    """Record why a replica is down; log it once if it answers but differs from the others."""
    reason = str(failure)
    if isinstance(failure, BadInput) and reason != replica.reason:
        LOG.warning("%s", reason)
    replica.reason = reason
