"""An actor: it opens the engine once, checks the first rows before its first token, and answers rows as they come.

It takes places in the data set and gives records as JSON texts, so that what travels is small and plain.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from preftilt.api import Realigner
from preftilt.engines.base import Engine
from preftilt.engines.loop import LoopThread, together
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, EngineError, MissingPackage, PreftiltError
from preftilt.prompt import at
from preftilt.records import (
    CHECKED_FIRST,
    Item,
    RecordKind,
    check_dates,
    check_items,
    dated,
    error_record,
    realign_item,
    record_of,
    shown_by,
)
from preftilt.run import Progress

PLACE, ANSWER = "place", "answer"
"""The columns of what an actor is sent and of what it gives back."""

REFUSED = "refused"

OPENINGS = 3
"""How often an actor may die of opening the engine."""

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJob:
    """What every actor is told. It names the variable of a key and never holds one: nodes read their own environment.

    identity: what the fingerprints of records are made with, besides the rows. moment: what prompts see. done: the
    first records of every moment in the output already. records: what is kept of a record.
    """

    model: str
    options: EngineOptions
    identity: Mapping[str, Any]
    moment: datetime
    done: Sequence[Mapping[str, Any]] = ()
    records: RecordKind = "full"

    @property
    def holds_model(self) -> bool:
        """The actor computes itself: the model is not the URL of a server."""
        return "://" not in self.model


@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """What an actor is handed: its job, a reference to the rows in Ray's store, and the actor that counts openings."""

    job: ClusterJob
    items: Any
    openings: Any


class ClusterWorker:
    """Called by Ray Data from as many threads as there may be batches in flight."""

    def __init__(self, hand: WorkerArguments) -> None:
        import ray

        self._job = hand.job
        self._items: Sequence[Item] = ray.get(hand.items)
        self._loop = LoopThread()
        self._refusal: dict[str, Any] | None = None
        try:
            self._realigner = Realigner(_opened(hand))
        except Exception as failure:  # A foreign engine may raise anything: the driver is told.
            self._refusal = _refusal(failure, f" (on {socket.gethostname()})")
            return
        try:
            with at(hand.job.moment):
                check_dates(hand.job.done, self._realigner.engine)
                self._identity = dated(hand.job.identity, shown_by(self._realigner.engine))
                check_items(self._realigner, self._items[:CHECKED_FIRST])
        except BadInput as failure:
            self._refusal = _refusal(failure, "")

    def __call__(self, batch: Batch) -> dict[str, list[str]]:
        places = [int(one) for one in batch[PLACE]]
        if self._refusal is not None:
            return {ANSWER: [json.dumps(self._refusal)] * len(places)}
        return {ANSWER: self._loop.run(lambda: self._all(places))}

    async def _all(self, places: Sequence[int]) -> list[str]:
        with at(self._job.moment):
            return await together(self._one(self._items[place]) for place in places)

    async def _one(self, item: Item) -> str:
        mark = item.fingerprint(self._identity)
        kind = self._job.records
        record = await record_of(realign_item, self._realigner, item, mark, _unseen, kind)
        try:
            return json.dumps(record, allow_nan=False)
        except (TypeError, ValueError) as failure:  # Ray Data would lose the row and its reason.
            return json.dumps(error_record(item.id, failure, mark))


def _opened(hand: WorkerArguments) -> Engine:
    """The engine; refused once this actor has died of opening it often enough."""
    import ray

    me = ray.get_runtime_context().get_actor_id()
    begun: Any = ray.get(hand.openings.begin.remote(me))
    if begun > OPENINGS:
        raise EngineError(
            f"the process died {OPENINGS} times while it opened {hand.job.model}, perhaps for want of memory: give it"
            " more, or start fewer actors (--ray-actors)"
        )
    engine = open_engine(hand.job.model, hand.job.options)
    ray.get(hand.openings.done.remote(me))
    return engine


def raise_refusal(answer: Mapping[str, Any]) -> None:
    """Raise what an actor refused the whole run with, if ``answer`` is that and no record."""
    if REFUSED not in answer:
        return
    kinds: dict[str, type[PreftiltError]] = {"BadInput": BadInput, "MissingPackage": MissingPackage}
    raise kinds.get(answer[REFUSED], EngineError)(answer["message"])


def _refusal(failure: Exception, where: str) -> dict[str, Any]:
    kind = next(
        (one for one in (BadInput, MissingPackage) if isinstance(failure, one)), EngineError
    )
    told = (
        str(failure)
        if isinstance(failure, PreftiltError)
        else f"{type(failure).__name__}: {failure}"
    )
    return {REFUSED: kind.__name__, "message": told + where}


def _unseen(progress: Progress) -> None:
    """Progress within a row stays with the actor; the driver counts whole rows."""
