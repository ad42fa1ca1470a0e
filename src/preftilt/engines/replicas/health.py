"""Health checks of a replica: ping it at intervals, and reopen it when it was lost."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

from preftilt.engines.base import Engine, Pingable
from preftilt.engines.replicas.identity import ModelIdentity, identify
from preftilt.engines.replicas.replica import LOG, OpenReplica, Replica
from preftilt.errors import BadInput


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
            # An engine in this process needs no ping; whether it works shows when it is used.
            if isinstance(engine, Pingable):
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
    if promised.sampler_logprobs and not able.sampler_logprobs:
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
