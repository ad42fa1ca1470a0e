"""``preftilt run --ray``: the rows go to the actors of a Ray cluster, and their records into the same file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from preftilt.cli.configure import options_from
from preftilt.cli.files import Output
from preftilt.cli.grouping import flag
from preftilt.cli.options import ClusterFlags, FileFlags, ModelFlags
from preftilt.cli.progress import Meter, row_bar, spinner
from preftilt.errors import BadInput
from preftilt.records.journal import Journal
from preftilt.records.work import record_kind

if TYPE_CHECKING:
    from preftilt.cluster import ActorRequest


def check_cluster(cluster: ClusterFlags) -> None:
    """Refuse flags that do nothing, and a cluster that does not answer, before the rows are read."""
    if cluster.ray is None:
        for field in fields(cluster):
            if getattr(cluster, field.name) is not None:
                raise BadInput(f"{flag(field.name)} does nothing without --ray")
        return
    from preftilt.cluster import check_address, require_ray

    require_ray()
    check_address(cluster.ray)
    _asked(cluster)


def answer_on_cluster(
    output: Output,
    identity: Mapping[str, Any],
    model: ModelFlags,
    files: FileFlags,
    cluster: ClusterFlags,
    meter: Meter,
) -> None:
    """By actors that each open the engine. The output file is opened when the first record is there: by then an actor
    has the engine and has found the first rows fit for it."""
    from preftilt.cluster import LOCAL, ClusterJob, RowBatching, answer_rows, joined

    address = cluster.ray or LOCAL
    options = options_from(model)
    # One moment for all actors, whenever they open: templates with a date must not tell them apart.
    moment = options.now or datetime.now()
    job = ClusterJob(
        model=model.model,
        options=options,
        identity=identity,
        moment=moment,
        done=output.records,
        records=record_kind(files.records),
    )
    flow = RowBatching(concurrency=files.concurrency, batch=cluster.ray_batch or 1)
    with ExitStack() as stack:
        with spinner() as doing:
            doing(f"joining the Ray cluster ({address})")
            stack.enter_context(joined(address))
        meter.start()
        stack.enter_context(row_bar(meter, output.todo + output.done, output.done))
        items = tuple(output.items())
        answered = stack.enter_context(closing(answer_rows(job, items, _asked(cluster), flow)))
        journal: Journal | None = None
        for record in answered:
            if journal is None:
                journal = stack.enter_context(closing(output.open()))
            journal.write(record)
            meter.finish(record["id"], record)


def _asked(cluster: ClusterFlags) -> ActorRequest:
    from preftilt.cluster import ActorRequest

    return ActorRequest(
        actors=cluster.ray_actors,
        cpus=cluster.ray_cpus_per_actor,
        gpus=cluster.ray_gpus_per_actor,
    )
