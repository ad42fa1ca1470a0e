"""Opens all replicas at once, and makes one engine of them."""

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
    intervals: WatchIntervals | None = None,
    *,
    free_load: int = FREE_LOAD,
    tokenizer: ChatTokenizer | None = None,
) -> Replicas:
    """Open engines of the same model, by name, and make one engine of them.

    A replica that does not answer (:class:`~preftilt.errors.EngineError`) is left out, and added later when it does.
    free_load: running sequences below which no replica counts as loaded. tokenizer: renders the prompts, instead of the
    first replica's own.

    Raises :class:`~preftilt.errors.BadInput` if they do not hold the same model, :class:`~preftilt.errors.EngineError`
    if none of them answers, and otherwise what opening one of them raises.
    """
    replicas = [Replica(name=name, open=work) for name, work in openers.items()]
    loop = LoopThread()
    try:
        wanted = loop.run(lambda: _open_all(replicas))
        [first, *_] = [replica.engine for replica in replicas if replica.engine is not None]
        prompt_tokenizer = tokenizer or first.tokenizer
        return Replicas(
            loop,
            replicas,
            first,
            wanted,
            intervals or WatchIntervals(),
            free_load,
            prompt_tokenizer,
        )
    except BaseException:
        loop.close(lambda: close_all(replicas))
        raise


async def _open_all(replicas: list[Replica]) -> ModelIdentity:
    """Open and compare replicas; returns the identity and abilities that all of those that answer share."""
    results = await together(_open_or_none(replica) for replica in replicas)
    identities = [identity for identity in results if identity is not None]
    if not identities:
        raise EngineError(
            f"none of the {len(replicas)} replicas answers: {'; '.join(replica.reason for replica in replicas)}"
        )
    first, *others = identities
    for other in others:
        difference = first.difference(other)
        if difference is not None:
            raise BadInput(f"{other.name} is no replica of {first.name}: {difference}")
    capabilities = reduce(_common_capabilities, [identity.capabilities for identity in identities])
    return replace(first, capabilities=capabilities)


async def _open_or_none(replica: Replica) -> ModelIdentity | None:
    """Open a replica; returns None, and sets its ``reason``, if it does not answer."""
    try:
        return await _open_and_identify(replica)
    except EngineError as failure:
        replica.reason = str(failure)
        return None


async def _open_and_identify(replica: Replica) -> ModelIdentity:
    engine: Engine = await open_in_thread(replica.open)
    try:
        identity = await identify(engine)
    except BaseException:
        engine.close()
        raise
    replica.mark_up(engine)
    return identity


def _common_capabilities(first: Capabilities, other: Capabilities) -> Capabilities:
    """The abilities of both; their end-of-response tokens are the same."""
    return replace(
        first,
        max_context=min(first.max_context, other.max_context),
        sampler_logprobs=first.sampler_logprobs and other.sampler_logprobs,
        keyed_streams=first.keyed_streams and other.keyed_streams,
        guides=first.guides and other.guides,
        proposes=first.proposes and other.proposes,
        images=first.images and other.images,
    )
