"""Opening all replicas at once, and the one engine that they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

from preftilt.engines.base import Capabilities, Engine
from preftilt.engines.loop import LoopThread, together
from preftilt.engines.replicas.engine import Replicas, close_all
from preftilt.engines.replicas.health import WatchIntervals, open_in_thread
from preftilt.engines.replicas.identity import ModelIdentity, identify
from preftilt.engines.replicas.replica import OpenReplica, Replica
from preftilt.engines.replicas.routing import FREE_LOAD
from preftilt.errors import BadInput, EngineError
from preftilt.prompt import ChatTokenizer


def open_replicas(
    openers: Mapping[str, OpenReplica],
    pace: WatchIntervals | None = None,
    *,
    free: int = FREE_LOAD,
    tokenizer: ChatTokenizer | None = None,
) -> Replicas:
    """Open engines of the same model, by name, and make one engine of them.

    A replica that does not answer (:class:`~preftilt.errors.EngineError`) is left out and taken in later, when it does.
    free: sequences under way below which no replica counts as loaded. tokenizer: makes the prompts, instead of the
    first replica's own.

    Raises :class:`~preftilt.errors.BadInput` if they do not hold the same model, :class:`~preftilt.errors.EngineError`
    if none of them answers, and otherwise what opening one of them raises.
    """
    replicas = [Replica(name=name, open=work) for name, work in openers.items()]
    loop = LoopThread()
    try:
        wanted = loop.run(lambda: _open_all(replicas))
        [first, *_] = [replica.engine for replica in replicas if replica.engine is not None]
        made_by = tokenizer or first.tokenizer
        return Replicas(loop, replicas, first, wanted, pace or WatchIntervals(), free, made_by)
    except BaseException:
        loop.close(lambda: close_all(replicas))
        raise


async def _open_all(replicas: list[Replica]) -> ModelIdentity:
    """Open and compare; what all that answer have in common."""
    answers = await together(_join(replica) for replica in replicas)
    known = [identify for identify in answers if identify is not None]
    if not known:
        raise EngineError(
            f"none of the {len(replicas)} replicas answers: {'; '.join(replica.reason for replica in replicas)}"
        )
    first, *others = known
    for other in others:
        difference = first.difference(other)
        if difference is not None:
            raise BadInput(f"{other.name} is no replica of {first.name}: {difference}")
    able = reduce(_common, [identity.capabilities for identity in known])
    return replace(first, capabilities=able)


async def _join(replica: Replica) -> ModelIdentity | None:
    """Open it; None if it does not answer, which its ``reason`` then tells."""
    try:
        return await _opened(replica)
    except EngineError as failure:
        replica.reason = str(failure)
        return None


async def _opened(replica: Replica) -> ModelIdentity:
    engine: Engine = await open_in_thread(replica.open)
    try:
        identity = await identify(engine)
    except BaseException:
        engine.close()
        raise
    replica.join(engine)
    return identity


def _common(first: Capabilities, other: Capabilities) -> Capabilities:
    """What both can do; their ends of responses are the same."""
    return replace(
        first,
        max_context=min(first.max_context, other.max_context),
        sampler_logprobs=first.sampler_logprobs and other.sampler_logprobs,
        keyed_streams=first.keyed_streams and other.keyed_streams,
        guides=first.guides and other.guides,
        proposes=first.proposes and other.proposes,
        images=first.images and other.images,
    )
