"""Runs a data set on a pool of actors in rounds: rows that are lost with an actor are retried in the next round.

Ray restarts an actor that died, but its tasks are not retried: a row that kills every actor would be tried for ever.
The round continues without the lost rows; the next round retries them, and the last round tries them one by one, so
that a row that kills its actor takes no others with it. A process that dies while it opens the engine is restarted by
Ray, too, so attempts are counted outside of it (:class:`OpeningCounter`).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preftilt.cluster.connect import ActorPool, ActorRequest, nodes, plan_pool
from preftilt.cluster.worker import (
    INDEX,
    RECORD,
    ClusterJob,
    ClusterWorker,
    WorkerArguments,
    raise_refusal,
)
from preftilt.errors import EngineError
from preftilt.records.journal import error_record
from preftilt.records.rows import CheckedRow

ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatching:
    """Rows that an actor processes at once, and rows in one Ray task."""

    concurrency: int
    batch: int


def answer_rows(
    job: ClusterJob, items: Sequence[CheckedRow], wanted: ActorRequest, batching: RowBatching
) -> Generator[dict[str, Any]]:
    """One record a row, in the order of completion; call it inside :func:`~preftilt.cluster.connect.joined`.

    Raises :class:`~preftilt.errors.PreftiltError` if an actor cannot open the engine or refuses a row's prompt.
    """
    import ray

    shared = ray.put(tuple(items))
    openings = ray.remote(OpeningCounter).options(num_cpus=0).remote()
    unanswered = {item.id: index for index, item in enumerate(items)}
    for number in range(1, ROUNDS + 1):
        if number == ROUNDS:
            batching = RowBatching(concurrency=1, batch=1)
        pool = plan_pool(nodes(), wanted, holds_model=job.holds_model)
        for record in _round(
            WorkerArguments(job, shared, openings), list(unanswered.values()), pool, batching
        ):
            raise_refusal(record)
            if unanswered.pop(record["id"], None) is not None:
                yield record
        if not unanswered:
            return
    for index in unanswered.values():
        yield _lost(items[index], job.identity)


def _round(
    arguments: WorkerArguments, indices: Sequence[int], pool: ActorPool, batching: RowBatching
) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.exceptions import RayError

    _configure(ray.data.DataContext.get_current())
    tasks = -(-len(indices) // batching.batch)
    calls = max(1, batching.concurrency // batching.batch)
    rows = ray.data.from_items([{INDEX: index} for index in indices], override_num_blocks=tasks)
    with warnings.catch_warnings():
        # The only way to pass _no_task_retries up to Ray 2.63, the last version that the extra allows.
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        answered = rows.map_batches(
            ClusterWorker,
            batch_size=None,  # All rows of a task in one call.
            fn_constructor_kwargs={"arguments": arguments},
            compute=ray.data.ActorPoolStrategy(
                size=min(pool.actors, tasks),
                max_concurrent_calls_per_actor=calls,
                max_tasks_in_flight_per_actor=calls,
                enable_true_multi_threading=True,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            ray_remote_args_fn=_no_task_retries,
        )
    try:
        for row in answered.iter_rows():
            yield json.loads(row[RECORD])
    except RayError as failure:
        reason = str(failure).strip().partition("\n")[0]
        raise EngineError(
            f"Ray cannot go on ({type(failure).__name__}: {reason}); the nodes need the same Python, Ray and preftilt"
            " as here, and room for an actor. --resume goes on with what is done"
        ) from failure


class OpeningCounter:
    """A Ray actor that counts how often each other actor began to open its engine since it last succeeded."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, actor: str) -> int:
        self._begun[actor] += 1
        return self._begun[actor]

    def done(self, actor: str) -> None:
        del self._begun[actor]


def _no_task_retries() -> dict[str, Any]:
    """Ray restarts a dead actor without limit, and never retries its tasks."""
    return {"max_restarts": -1, "max_task_retries": 0}


def _configure(context: Any) -> None:
    """Do not stop for tasks that died with their actor; keep Ray Data's messages in its own log."""
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _lost(item: CheckedRow, identity: Mapping[str, Any]) -> dict[str, Any]:
    died = EngineError(
        f"the actor that had this row died, {ROUNDS} times; look at its memory (ray memory, ray logs) and --resume"
    )
    return error_record(item.id, died, item.fingerprint(identity))
