"""A Ray actor: opens the engine once, checks the first rows before the first token, and runs rows as they come.

It receives indices into the data set and returns records as JSON texts, so that little is sent.
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
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.waiting import LoopThread, together
from preftilt.errors import BadInput, EngineError, MissingPackage, PreftiltError
from preftilt.prompt import rendered_at
from preftilt.records.journal import check_dates, dated, error_record, shown_by
from preftilt.records.rows import CheckedRow
from preftilt.records.work import CHECKED_FIRST, RecordKind, check_items, realign_item, record_of
from preftilt.run import Progress

INDEX, RECORD = "index", "record"
"""The columns of the batches that an actor receives and returns."""

REFUSED = "refused"

MAX_OPENINGS = 3
"""How often an actor's process may die while it opens the engine."""

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJob:
    """The configuration of every actor. It names the variable of an API key, never the key: nodes read their own.

    identity: goes into the fingerprints of records, besides the rows. moment: the date that prompts see. done: the
    first records of every moment that the output already has. records: how much of a record is written.
    """

    model: str
    options: EngineOptions
    identity: Mapping[str, Any]
    moment: datetime
    done: Sequence[Mapping[str, Any]] = ()
    records: RecordKind = "full"

    @property
    def holds_model(self) -> bool:
        """Whether the actor runs the model itself: ``model`` is not the URL of a server."""
        return "://" not in self.model


@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """Constructor arguments of an actor: the job, a reference to the rows in Ray's store, the opening counter."""

    job: ClusterJob
    items: Any
    openings: Any


class ClusterWorker:
    """The callable class that Ray Data runs in an actor, from one thread per batch in flight."""

    def __init__(self, arguments: WorkerArguments) -> None:
        import ray

        self._job = arguments.job
        self._items: Sequence[CheckedRow] = ray.get(arguments.items)
        self._loop = LoopThread()
        self._refusal: dict[str, Any] | None = None
        try:
            self._realigner = Realigner(_open_engine(arguments))
        except Exception as failure:  # A plugin engine may raise anything; the driver reports it.
            self._refusal = _refusal(failure, f" (on {socket.gethostname()})")
            return
        try:
            with rendered_at(arguments.job.moment):
                check_dates(arguments.job.done, self._realigner.engine)
                self._identity = dated(arguments.job.identity, shown_by(self._realigner.engine))
                check_items(self._realigner, self._items[:CHECKED_FIRST])
        except BadInput as failure:
            self._refusal = _refusal(failure, "")

    def __call__(self, batch: Batch) -> dict[str, list[str]]:
        indices = [int(index) for index in batch[INDEX]]
        if self._refusal is not None:
            return {RECORD: [json.dumps(self._refusal)] * len(indices)}
        return {RECORD: self._loop.run(lambda: self._run_batch(indices))}

    async def _run_batch(self, indices: Sequence[int]) -> list[str]:
        with rendered_at(self._job.moment):
            return await together(self._run_row(self._items[index]) for index in indices)

    async def _run_row(self, item: CheckedRow) -> str:
        fingerprint = item.fingerprint(self._identity)
        kind = self._job.records
        record = await record_of(
            realign_item, self._realigner, item, fingerprint, _ignore_progress, kind
        )
        try:
            return json.dumps(record, allow_nan=False)
        except (TypeError, ValueError) as failure:  # Ray Data would drop the row and the reason.
            return json.dumps(error_record(item.id, failure, fingerprint))


def _open_engine(arguments: WorkerArguments) -> Engine:
    """The engine; raises once this actor's process has died :data:`MAX_OPENINGS` times while opening it."""
    import ray

    actor_id = ray.get_runtime_context().get_actor_id()
    attempts: Any = ray.get(arguments.openings.begin.remote(actor_id))
    if attempts > MAX_OPENINGS:
        raise EngineError(
            f"the process died {MAX_OPENINGS} times while it opened {arguments.job.model}, perhaps for want of memory:"
            " give it more, or start fewer actors (--ray-actors)"
        )
    engine = open_engine(arguments.job.model, arguments.job.options)
    ray.get(arguments.openings.done.remote(actor_id))
    return engine


def raise_refusal(answer: Mapping[str, Any]) -> None:
    """Raise the error with which an actor refused the whole run, if ``answer`` is that and not a record."""
    if REFUSED not in answer:
        return
    kinds: dict[str, type[PreftiltError]] = {"BadInput": BadInput, "MissingPackage": MissingPackage}
    raise kinds.get(answer[REFUSED], EngineError)(answer["message"])


def _refusal(failure: Exception, where: str) -> dict[str, Any]:
    kind = next(
        (
            error_type
            for error_type in (BadInput, MissingPackage)
            if isinstance(failure, error_type)
        ),
        EngineError,
    )
    message = (
        str(failure)
        if isinstance(failure, PreftiltError)
        else f"{type(failure).__name__}: {failure}"
    )
    return {REFUSED: kind.__name__, "message": message + where}


def _ignore_progress(progress: Progress) -> None:
    """Ignores progress within a row; the driver counts whole rows."""
