"""The experiments from beginning to end: measure, judge, choose λ, compute, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import preftilt
from preftilt.errors import BadInput
from preftilt.eval.calibrate.choice import LAMBDAS, MIN_ITEMS, Calibration, choose, options_of
from preftilt.eval.frame.method import Json
from preftilt.eval.reproduce import contenders as methods
from preftilt.eval.reproduce import experiments
from preftilt.eval.reproduce.benchmark import Benchmark, Case
from preftilt.eval.reproduce.collecting import Models, OnItem, Place, collect, read_records
from preftilt.eval.reproduce.curves import REDUCTIONS
from preftilt.eval.reproduce.measured import Found
from preftilt.eval.reproduce.numbers import chosen_json, figures_of, sureness, tables_of
from preftilt.eval.reproduce.parts import AFTER_POOLS, PARTS, RATES, REWARD_MODEL, How
from preftilt.eval.reproduce.tables import Sight
from preftilt.eval.reproduce.verdicts import picked, settle

SCHEMA = "preftilt.reproduce/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many items each kind of measurement is made on; None is all of them.

    trees: tree searches. rated: generative and external reward models. contexts: long contexts. timed: times.
    """

    trees: int | None = None
    rated: int | None = None
    contexts: int | None = None
    timed: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does; ``settings`` of How are the user's changes, ``inserted`` the lengths of context in messages.

    judged_by: the judge's name, which verdicts depend on.
    """

    experiments: Sequence[str]
    models: Models
    settings: Json
    seed: int
    pool: int
    n: int
    lambdas: tuple[float, ...]
    judge_tokens: int
    inserted: tuple[int, ...]
    sizes: Sizes
    processes: int
    reference: str
    records: Path
    judged_by: str | None

    def how(self, benchmark: Benchmark, pool: int) -> How:
        return How(
            protocol=benchmark.protocol,
            settings=self.settings,
            seed=self.seed,
            pool=pool,
            n=self.n,
            lambdas=self.lambdas,
            judge_tokens=self.judge_tokens,
        )

    def place(self, benchmark: Benchmark, part: str, inserted: int, pool: int) -> Place:
        return Place(
            benchmark=benchmark,
            models=self.models,
            how=self.how(benchmark, pool),
            part=part,
            inserted=inserted,
            folder=self.records,
        )


def reproduce(
    plan: Plan, benchmarks: Sequence[Benchmark], command: str, on_item: OnItem
) -> dict[str, Any]:
    """Measure what is not measured yet, and give the report's numbers."""
    return {
        "schema": SCHEMA,
        "command": command,
        "version": preftilt.__version__,
        "experiments": list(plan.experiments),
        "model": plan.models.model,
        "judge": plan.judged_by,
        "generative_rm": plan.models.judge or plan.models.model,
        "reward_model": plan.models.reward_model,
        "seed": plan.seed,
        "n": plan.n,
        "pool": plan.pool,
        "benchmarks": [_benchmark(plan, one, on_item) for one in benchmarks],
    }


def _benchmark(plan: Plan, benchmark: Benchmark, on_item: OnItem) -> dict[str, Any]:
    how = plan.how(benchmark, plan.pool)
    reference = experiments.reference_of(plan.reference, how)
    cases, validation = benchmark.test(0), benchmark.validation()
    judging = _Judging(plan, benchmark, on_item)
    items = _measured(plan, benchmark, cases, 0, plan.pool, on_item)
    if not any(one.pool for one in items):
        why = next((one for item in items for one in item.skipped), "nothing was drawn")
        raise BadInput(f"no item of {benchmark.name} could be answered: {why}")
    if validation:
        alone = replace(plan, experiments=["fig4"])  # Pools alone: λ is chosen by no more.
        unseen = _measured(alone, benchmark, validation, 0, plan.n, on_item)
        chosen = _chosen(judging.sight(unseen, experiments.every_pick(benchmark, how, plan.n)), how)
    else:
        chosen = []
    sight = judging.sight(items, experiments.every_pick(benchmark, how, plan.pool))
    sights = {0: sight} | _contexts(plan, benchmark, how, chosen, judging, on_item)
    skipped = sorted({why for one in sights.values() for item in one.items for why in item.skipped})
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "items": len(cases),
        "validation": len(validation),
        "metrics": list(benchmark.metrics),
        "fault": benchmark.fault,
        "exact": benchmark.exact,
        "switches": dict(benchmark.switches),
        "settings": how.flat,
        "searches": {name: dict(one) for name, one in benchmark.protocol.searches.items()},
        "chosen": [chosen_json(one) for one in chosen],
        "sure": sureness(sight.items),
        "skipped": skipped,
        "tables": tables_of(plan.experiments, sights, how, chosen, reference),
        "figures": figures_of(plan.experiments, sights, how, chosen),
    }


def _measured(
    plan: Plan,
    benchmark: Benchmark,
    cases: Sequence[Case],
    inserted: int,
    pool: int,
    on_item: OnItem,
) -> list[Found]:
    """What is known of the cases once everything that the experiments need is measured."""
    for part in experiments.parts_of(plan.experiments, inserted=inserted > 0):
        if part == REWARD_MODEL and plan.models.reward_model is None:
            continue
        place = plan.place(benchmark, part, inserted, pool)
        some = cases[: _size(plan.sizes, part)]
        drawn = plan.place(benchmark, "pool", inserted, pool)
        pools = _texts(drawn, some) if part in AFTER_POOLS else {}
        collect(place, some, plan.processes, pools, on_item)
    places = [plan.place(benchmark, part, inserted, pool) for part in PARTS]
    return read_records(places, cases)


def _size(sizes: Sizes, part: str) -> int | None:
    return {"trees": sizes.trees, "times": sizes.timed}.get(part, sizes.rated if part in RATES else None)  # fmt: skip


def _texts(place: Place, cases: Sequence[Case]) -> dict[str, list[str]]:
    """The pools that were drawn, by the case's key."""
    return {
        one.case.key: [each.text for each in one.pool.answers]
        for one in read_records([place], cases)
        if one.pool is not None
    }


@dataclass(frozen=True, slots=True)
class _Judging:
    """Has what methods picked judged, once."""

    plan: Plan
    benchmark: Benchmark
    on_item: OnItem

    def sight(self, items: Sequence[Found], compared: Sequence[methods.Contender]) -> Sight:
        wanted = picked(compared, items)

        def told(done: int, total: int) -> None:
            self.on_item(f"{self.benchmark.name}: verdicts", done, total)

        verdicts = settle(self.benchmark, wanted, self._path(), told)
        return Sight(self.benchmark, items, verdicts)

    def _path(self) -> Path:
        judge = None if self.benchmark.exact else self.plan.judged_by
        known = repr((preftilt.__version__, self.benchmark.verdicts, judge))
        mark = sha256(known.encode()).hexdigest()[:10]
        return self.plan.records / f"{self.benchmark.name}-verdicts-{mark}.jsonl"


def _chosen(sight: Sight, how: How) -> list[Calibration]:
    """The λ that does best on validation items, for each reduction; none on too few items to choose on."""
    found = []
    for reduction in REDUCTIONS:
        options = options_of(LAMBDAS, (reduction,))
        each = [sight.values(experiments.options_as(one, how.n)) for one in options]
        values = np.array(each).T
        known = np.isfinite(values).all(axis=1)
        if known.sum() >= MIN_ITEMS:
            lost = int((~known).sum())
            found.append(choose(options, values[known], n=how.n, left_out=lost))
    return found


def _contexts(
    plan: Plan,
    benchmark: Benchmark,
    how: How,
    chosen: Sequence[Calibration],
    judging: _Judging,
    on_item: OnItem,
) -> dict[int, Sight]:
    """What is seen in long contexts, by the messages inserted."""
    wanted = any(experiments.EXPERIMENTS[one].contexts for one in plan.experiments)
    if not (wanted and benchmark.contexts):
        return {}
    compared = experiments.table_2(how, chosen)
    found = {}
    for inserted in plan.inserted:
        cases = benchmark.test(inserted)[: plan.sizes.contexts]
        if inserted:
            items = _measured(plan, benchmark, cases, inserted, plan.n, on_item)
            found[inserted] = judging.sight(items, compared)
    return found
