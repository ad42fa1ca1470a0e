"""A data set through a pool of actors, in rounds: what is lost with an actor goes into the next one.

Ray starts an actor that died again, but gives none of its tasks out a second time: a row that kills whatever answers it
would be tried for ever. The round goes on without the rows that it had; the next one tries those, and the last one
tries them one by one, so that a deadly row takes no other with it. A process that dies while it opens the engine is
started again by Ray, too, so openings are counted outside of it (:class:`OpeningCounter`).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preftilt.cluster.actor_pool import ActorPool, ActorRequest, plan_pool
from preftilt.cluster.connect import nodes
from preftilt.cluster.worker import (
    ANSWER,
    PLACE,
    ClusterJob,
    ClusterWorker,
    WorkerArguments,
    raise_refusal,
)
from preftilt.errors import EngineError
from preftilt.records import Item, error_record

ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatching:
    """Rows an actor answers at once, and rows in one of Ray's tasks."""

    concurrency: int
    batch: int


def answer_rows(
    job: ClusterJob, items: Sequence[Item], asked: ActorRequest, flow: RowBatching
) -> Generator[dict[str, Any]]:
    """One record a row, in the order in which they are done; inside :func:`~preftilt.cluster.connect.joined`.

    Raises :class:`~preftilt.errors.PreftiltError` if an actor cannot open the engine or refuses a row's prompt.
    """
    import ray

    shared = ray.put(tuple(items))
    openings = ray.remote(OpeningCounter).options(num_cpus=0).remote()
    left = {item.id: place for place, item in enumerate(items)}
    for number in range(1, ROUNDS + 1):
        if number == ROUNDS:
            flow = RowBatching(concurrency=1, batch=1)
        pool = plan_pool(nodes(), asked, holds_model=job.holds_model)
        for record in _round(
            WorkerArguments(job, shared, openings), list(left.values()), pool, flow
        ):
            raise_refusal(record)
            if left.pop(record["id"], None) is not None:
                yield record
        if not left:
            return
    for place in left.values():
        yield _lost(items[place], job.identity)


def _round(
    hand: WorkerArguments, places: Sequence[int], pool: ActorPool, flow: RowBatching
) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray.exceptions import RayError

    _prepare(ray.data.DataContext.get_current())
    tasks = -(-len(places) // flow.batch)
    calls = max(1, flow.concurrency // flow.batch)
    rows = ray.data.from_items([{PLACE: one} for one in places], override_num_blocks=tasks)
    with warnings.catch_warnings():
        # The only way to say _one_try up to Ray 2.63, which is where the extra's range ends.
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        answered = rows.map_batches(
            ClusterWorker,
            batch_size=None,  # A task's rows together.
            fn_constructor_kwargs={"hand": hand},
            compute=ray.data.ActorPoolStrategy(
                size=min(pool.actors, tasks),
                max_concurrent_calls_per_actor=calls,
                max_tasks_in_flight_per_actor=calls,
                enable_true_multi_threading=True,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            ray_remote_args_fn=_one_try,
        )
    try:
        for row in answered.iter_rows():
            yield json.loads(row[ANSWER])
    except RayError as failure:
        told = str(failure).strip().partition("\n")[0]
        raise EngineError(
            f"Ray cannot go on ({type(failure).__name__}: {told}); the nodes need the same Python, Ray and preftilt as"
            " here, and room for an actor. --resume goes on with what is done"
        ) from failure


class OpeningCounter:
    """An actor that counts how often every other one began to open its engine since it last could."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, actor: str) -> int:
        self._begun[actor] += 1
        return self._begun[actor]

    def done(self, actor: str) -> None:
        del self._begun[actor]


def _one_try() -> dict[str, Any]:
    """Ray starts an actor again as often as it dies, and gives out no task twice."""
    return {"max_restarts": -1, "max_task_retries": 0}


def _prepare(context: Any) -> None:
    """A task that died with its actor does not end the rest; what Ray Data tells of itself goes to its own log."""
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _lost(item: Item, identity: Mapping[str, Any]) -> dict[str, Any]:
    died = EngineError(
        f"the actor that had this row died, {ROUNDS} times; look at its memory (ray memory, ray logs) and --resume"
    )
    return error_record(item.id, died, item.fingerprint(identity))
