"""Measurements in a file, a record a comparison, so that an interrupted run goes on and a report needs no model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput
from preftilt.eval.accuracy.context import TokenisedComparison
from preftilt.eval.accuracy.measure import measure
from preftilt.eval.accuracy.pairs import Comparison
from preftilt.eval.accuracy.rules import Rule, RuleValue
from preftilt.records import Journal, Survey, dated, read_records, shown_by, survey

SCHEMA = "preftilt.policy-accuracy/1"
FIELDS = ("unnormalised", "policy", "reward")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStore:
    """Where records are: ``resume`` goes on with the file, ``force`` begins it anew. ``how`` shapes every record."""

    path: Path
    how: Mapping[str, Any]
    schema: str = SCHEMA
    resume: bool = False
    force: bool = False

    def of(self, contexts: Sequence[TokenisedComparison]) -> RecordStore:
        """The store with what the prompts of ``contexts`` show of the moment, which shapes records, too."""
        shown = shown_by(contexts[0].engine) if contexts else ()
        return replace(self, how=dated(self.how, shown))

    def known(self, items: Sequence[Comparison]) -> Survey:
        """What is there; raises :class:`~preftilt.errors.BadInput` if it is another run's, or may not be touched."""
        if self.resume and self.force:
            raise BadInput("--resume and --force exclude each other")
        if not self.path.exists() or self.force:
            return Survey()
        if not self.resume:
            raise BadInput(f"{self.path} exists: --resume goes on with it, --force begins it anew")
        known = survey(self.path)
        marks = {item.id: item.fingerprint(self.how) for item in items}
        for id, written in known.done.items():
            if written.fingerprint != marks.get(id):
                raise BadInput(
                    f'{self.path} line {written.line} (id "{id}") was made otherwise: of other words, rules or model'
                    " options; repeat the old call to go on with it, or begin anew with --force"
                )
        return known


Work = Callable[[TokenisedComparison], Awaitable[dict[str, Any]]]
"""What is measured of a comparison: the fields of its record that are not its name."""


async def collect(
    store: RecordStore,
    contexts: Sequence[TokenisedComparison],
    work: Work,
    *,
    in_flight: int,
    on_item: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """The records of all comparisons, in their order; those in the file already are not measured again."""
    store = store.of(contexts)
    known = store.known([context.item for context in contexts])
    store.path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not store.path.exists() or store.force
    journal = (
        Journal.create(store.path) if fresh else Journal.resume(store.path, known, known.failed)
    )
    room = asyncio.Semaphore(in_flight)
    done = len(known.done)

    async def measure_one(context: TokenisedComparison) -> None:
        nonlocal done
        async with room:
            journal.write(_head(context.item, store) | await work(context))
        done += 1
        on_item(done)

    try:
        async with asyncio.TaskGroup() as group:
            for context in contexts:
                if context.item.id not in known.done:
                    group.create_task(measure_one(context))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        journal.close()
    by_id = {record["id"]: record for record in read_records(store.path)}
    return [by_id[context.item.id] for context in contexts]


def values_of(record: Mapping[str, Any], rule: str) -> list[RuleValue]:
    """A rule's values of the responses in a record."""
    return [
        RuleValue(
            unnormalised=_read(written["unnormalised"]),
            policy=_read(written["policy"]),
            reward=_read(written["reward"]),
            inside=written.get("inside"),
            whole=written.get("whole", False),
        )
        for written in record["rules"][rule]
    ]


async def measured(
    context: TokenisedComparison, rules: Sequence[Rule], *, policy: bool
) -> dict[str, Any]:
    """The rules' values of a comparison, for its record."""
    measurement = await measure(context, rules, policy=policy)
    return {
        "lengths": list(measurement.lengths),
        "rules": {
            name: [_written(value) for value in values]
            for name, values in measurement.values.items()
        },
        "examples": dict(measurement.examples),
    }


def _head(item: Comparison, store: RecordStore) -> dict[str, Any]:
    return {
        "schema": store.schema,
        "id": item.id,
        "fingerprint": item.fingerprint(store.how),
        "user": item.user,
        "group": item.group,
    }


def _written(value: RuleValue) -> dict[str, Any]:
    values: dict[str, Any] = {name: _number(getattr(value, name)) for name in FIELDS}
    if value.inside is not None:
        values["inside"] = value.inside
    return values | {"whole": True} if value.whole else values


def _number(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    return "-inf" if value == -math.inf else value


def _read(written: float | str | None) -> float | None:
    return -math.inf if written == "-inf" else written  # pyright: ignore[reportReturnType]
