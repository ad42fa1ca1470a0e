"""Looking after a replica: ask it now and then whether it is there, and bring it back when it was lost."""

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
    """Seconds.

    ask: between two questions whether a replica is there. answer: that it may take to answer. first, longest: between
    two tries to bring one back, each twice the last. opening: that such a try may take.
    """

    ask: float = 5.0
    answer: float = 15.0
    first: float = 0.5
    longest: float = 30.0
    opening: float = 300.0


async def watch_replica(replica: Replica, wanted: ModelIdentity, pace: WatchIntervals) -> None:
    """For as long as the engine is open; ``wanted`` is what a replica must be to come back."""
    while True:
        if replica.state == "down":
            await _bring_back(replica, wanted, pace)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(replica.wake.wait(), pace.ask)
            replica.wake.clear()
            await _ask(replica, pace)


async def open_in_thread(work: OpenReplica) -> Engine:
    """What ``work`` opens, in a thread; if nobody waits for it any more, it is closed again."""
    opened: Future[Engine] = Future()

    def run() -> None:
        try:
            engine = work()
        except BaseException as failure:
            with suppress(InvalidStateError):
                opened.set_exception(failure)
            return
        try:
            opened.set_result(engine)
        except InvalidStateError:
            engine.close()

    threading.Thread(target=run, name="preftilt-opening", daemon=True).start()
    return await asyncio.wrap_future(opened)


async def _ask(replica: Replica, pace: WatchIntervals) -> None:
    engine = replica.engine
    if engine is None:
        return
    try:
        async with asyncio.timeout(pace.answer):
            # An engine in this process is there; whether it works shows when it is given work.
            if isinstance(engine, Pingable):
                await engine.ping()
    except TimeoutError:
        replica.lose(f"no answer within {pace.answer:g} s when asked whether it is there")
    except Exception as failure:  # Engines from other packages may raise anything.
        replica.lose(str(failure))
    else:
        replica.trust()


async def _bring_back(replica: Replica, wanted: ModelIdentity, pace: WatchIntervals) -> None:
    """Open it anew until it is what it must be."""
    since, wait = time.monotonic(), pace.first
    while True:
        await asyncio.sleep(wait)
        wait = min(2 * wait, pace.longest)
        try:
            async with asyncio.timeout(pace.opening):
                engine = await open_in_thread(replica.open)
                await _admit(engine, wanted)
        except TimeoutError:
            replica.reason = f"it could not be opened within {pace.opening:g} s"
        except Exception as failure:
            _note(replica, failure)
        else:
            replica.join(engine)
            LOG.warning("%s is back after %.0f s", replica.name, time.monotonic() - since)
            return


async def _admit(engine: Engine, wanted: ModelIdentity) -> None:
    """Close an engine again that is not what the others are, or cannot do what they can."""
    try:
        identity = await identify(engine)
        difference = wanted.difference(identity) or _shortfall(wanted, identity)
        if difference is not None:
            raise BadInput(f"{engine.name} stays out: {difference}")
    except BaseException:
        engine.close()
        raise


def _shortfall(wanted: ModelIdentity, identity: ModelIdentity) -> str | None:
    """What callers were promised when the engine was opened cannot be taken back."""
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


def _note(replica: Replica, failure: Exception) -> None:
    """A replica that is not there is normal; one that is there and not wanted is worth a line, once."""
    reason = str(failure)
    if isinstance(failure, BadInput) and reason != replica.reason:
        LOG.warning("%s", reason)
    replica.reason = reason
