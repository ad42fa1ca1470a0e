"""The experiments from beginning to end: measure, judge, choose λ, compute, write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import preftilt
from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput
from preftilt.eval.calibrate import LAMBDAS, MIN_ITEMS, REDUCTIONS, Calibration, choose, options_of
from preftilt.eval.harness.benchmark import Benchmark, Case
from preftilt.eval.harness.budget import Budget
from preftilt.eval.reproduce import equal_tokens, experiments, methods, token_level
from preftilt.eval.reproduce.collecting import (
    MeasuredModels,
    OnItem,
    RecordFile,
    Unmeasured,
    collect,
    read_records,
)
from preftilt.eval.reproduce.experiments import REFERENCES
from preftilt.eval.reproduce.measured import ItemMeasurements
from preftilt.eval.reproduce.numbers import (
    JudgedItems,
    chosen_json,
    cut_off,
    figures_of,
    sureness,
    tables_of,
)
from preftilt.eval.reproduce.parts import (
    AFTER_POOLS,
    NUMBERS,
    ONCE,
    PARTS,
    RATES,
    REWARD_MODEL,
    TIMED,
    MeasureSettings,
)
from preftilt.eval.reproduce.verdicts import picked, settle

SCHEMA = "preftilt.reproduce/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCounts:
    """How many items each kind of measurement is made on; None is all of them.

    Attributes:
        trees: items with tree searches.
        others: items with other guided methods than the grid over λ (token-level).
        draws: items with guided draws (token-level).
        rated: items that reward models rate.
        contexts: items with long contexts.
        timed: items answered alone, for times.
    """

    trees: int | None = setting(None, least=0, flags=("--tree-items",), told="all")
    others: int | None = setting(None, least=0, flags=("--other-items",), told="all")
    draws: int | None = setting(None, least=0, flags=("--drawn-items",), told="all")
    rated: int | None = setting(None, least=0, flags=("--rated-items",), told="all")
    contexts: int | None = setting(None, least=0, flags=("--context-items",), told="all")
    timed: int = setting(6, least=0, flags=("--timed-items",))

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproducePlan:
    """What a run does.

    Attributes:
        experiments: their names.
        models: what answers, and what rates.
        measure: how every benchmark is measured, each by its own protocol.
        inserted: messages inserted, for long contexts; 0 is always there.
        sizes: of every kind of measurement.
        processes: share items among them.
        reference: what every method is compared with.
        records: what was measured, item by item.
        judged_by: the judge's name, which verdicts depend on.
        max_judge_calls: requests to it a benchmark. None is no limit.
        repeats: how often every item is answered; intervals are over items.
        max_tokens_total: to be sampled and scored, earlier runs into the same records included; what is under way then
            still ends, and the report says what is left.
    """

    experiments: Sequence[str]
    models: MeasuredModels
    measure: MeasureSettings
    inserted: tuple[int, ...] = setting((5, 10, 20), metavar=NUMBERS)
    sizes: ItemCounts
    processes: int
    reference: str = setting("greedy", metavar="|".join(REFERENCES), panel="Experiment")
    records: Path
    judged_by: str | None
    max_judge_calls: int | None = None
    repeats: int | None = setting(
        None, least=1, told="the protocol's: 10 for aime24 and amc23, else 1"
    )
    max_tokens_total: int | None = setting(None, least=1, panel="Experiment")

    def __post_init__(self) -> None:
        check_settings(self)

    def how(self, benchmark: Benchmark, pool: int | None = None) -> MeasureSettings:
        """How ``benchmark`` is measured; ``pool``: with so many samples an item."""
        return replace(self.measure, protocol=benchmark.protocol, pool=pool or self.measure.pool)

    def record_file(self, benchmark: Benchmark, part: str, inserted: int, pool: int) -> RecordFile:
        return RecordFile(
            benchmark=benchmark,
            models=self.models,
            how=self.how(benchmark, pool),
            part=part,
            inserted=inserted,
            folder=self.records,
        )


def reproduce(
    plan: ReproducePlan, benchmarks: Sequence[Benchmark], command: str, on_item: OnItem
) -> dict[str, Any]:
    """Measure what is not measured yet, as far as the budget goes, and give the report's numbers."""
    judged = next((benchmark for benchmark in benchmarks if not benchmark.exact), None)
    own = [name for name in plan.experiments if name in experiments.OWN]
    if judged is not None and own:
        raise BadInput(
            f"{judged.name} is judged, and {own[0]} has a verdict on every answer that is drawn: take"
            " a benchmark that a program checks"
        )
    budget = Budget(max_tokens_total=plan.max_tokens_total)
    if experiments.EQUAL_TOKENS in plan.experiments:
        equal_tokens.check(plan.measure, benchmarks)
    first = None
    if judged is not None and plan.judged_by is not None and plan.max_judge_calls != 0:
        first = cache(partial(_check_judge, plan.judged_by))
    runs = [_BenchmarkRun(plan, benchmark, budget, on_item, first, []) for benchmark in benchmarks]
    reports = [part for run in runs if (part := _benchmark(run)) is not None]
    if not reports:
        budget.check_tokens()
    return {
        "schema": SCHEMA,
        "command": command,
        "version": preftilt.__version__,
        "experiments": list(plan.experiments),
        "model": plan.models.model,
        "judge": plan.judged_by,
        "generative_rm": plan.models.judge or plan.models.model,
        "reward_model": plan.models.reward_model,
        "seed": plan.measure.seed,
        "n": plan.measure.n,
        "pool": plan.measure.pool,
        "tokens": budget.tokens,
        "max_tokens_total": plan.max_tokens_total,
        "unmeasured": [asdict(unmeasured) for run in runs for unmeasured in run.unmeasured],
        "benchmarks": reports,
    }


def _check_judge(judge: str) -> None:
    from preftilt.eval.harness.judge import check_judge

    check_judge(judge)


@dataclass(frozen=True, slots=True)
class _BenchmarkRun:
    """A benchmark on its way; ``unmeasured`` fills up with what the budget did not allow.

    first: what is done before anything is drawn, at most once in all.
    """

    plan: ReproducePlan
    benchmark: Benchmark
    budget: Budget
    on_item: OnItem
    first: Callable[[], None] | None
    unmeasured: list[Unmeasured]


def _benchmark(run: _BenchmarkRun) -> dict[str, Any] | None:
    """The benchmark's part of the report; None if the budget was spent before its first item."""
    plan, benchmark = run.plan, run.benchmark
    how = plan.how(benchmark)
    reference = experiments.reference_of(plan.reference, how)
    repeats = plan.repeats or benchmark.repeats
    cases, validation = benchmark.test(0), benchmark.validation()
    items = _measured(run, plan.experiments, repeated(cases, repeats), 0, plan.measure.pool)
    if not any(item.pool for item in items):
        if run.unmeasured:
            return None
        why = next(
            (item.skipped["pool"] for item in items if "pool" in item.skipped), "nothing was drawn"
        )
        raise BadInput(f"no item of {benchmark.name} could be answered: {why}")
    papers = not experiments.OWN.issuperset(plan.experiments)
    chosen = _chosen(run, how, validation) if validation and papers else []
    judged = _sight(run, items, _picks(run, how))
    every = {0: judged} | _contexts(run, how, chosen, repeats)
    judged_by_context = {
        inserted: judged for inserted, judged in every.items() if any(e.pool for e in judged.items)
    }
    return {
        **_about(benchmark, how),
        "items": len(cases),
        "repeats": repeats,
        "validation": len(validation),
        "chosen": [chosen_json(calibration) for calibration in chosen],
        "sure": sureness(judged.items),
        "cut_off": cut_off(judged.items),
        "skipped": [
            each for inserted, judged in every.items() for each in _skipped(judged, inserted)
        ],
        "tables": tables_of(plan.experiments, judged_by_context, how, chosen, reference),
        "figures": figures_of(plan.experiments, judged_by_context, how, chosen),
        **_token_level(run, how, judged, validation),
        **_equal_tokens(run, how, judged, validation),
    }


def _picks(run: _BenchmarkRun, how: MeasureSettings) -> list[methods.ComparedMethod]:
    """All methods whose answers need verdicts."""
    names = run.plan.experiments
    papers = not experiments.OWN.issuperset(names)
    compared = experiments.every_pick(run.benchmark, how, how.pool) if papers else []
    if experiments.TOKEN_LEVEL in names:
        compared += token_level.every_method(how)
    if not experiments.OWN.isdisjoint(names):
        compared += token_level.whole_pools(how)
    return compared


def _token_level(
    run: _BenchmarkRun, how: MeasureSettings, judged: JudgedItems, validation: Sequence[Case]
) -> dict[str, Any]:
    """That experiment's part of the report: what it chooses among is measured on validation items, too."""
    if experiments.TOKEN_LEVEL not in run.plan.experiments:
        return {}
    seen = None
    if validation:
        items = _measured(
            run, [experiments.TOKEN_LEVEL], validation, 0, how.n, ", validation items",
            parts=token_level.CHOSEN_BY,
        )  # fmt: skip
        seen = _sight(run, items, token_level.every_method(how))
    references = {"greedy": methods.greedy(), "lambda-1": methods.plain(how.n, "sum")}
    return {experiments.TOKEN_LEVEL: token_level.report(judged, seen, how, references)}


def _equal_tokens(
    run: _BenchmarkRun, how: MeasureSettings, judged: JudgedItems, validation: Sequence[Case]
) -> dict[str, Any]:
    """That experiment's part of the report."""
    name = experiments.EQUAL_TOKENS
    if name not in run.plan.experiments:
        return {}
    items = _measured(run, [name], validation, 0, how.n, ", validation items")
    seen = _sight(run, items, token_level.whole_pools(how))
    return {name: equal_tokens.report(judged, seen, how)}


def _about(benchmark: Benchmark, how: MeasureSettings) -> dict[str, Any]:
    """What is known of a benchmark before anything is measured."""
    return {
        "name": benchmark.name,
        "title": benchmark.title,
        "metrics": list(benchmark.metrics),
        "fault": benchmark.fault,
        "exact": benchmark.exact,
        "switches": dict(benchmark.switches),
        "settings": how.flat,
        "searches": {name: dict(search) for name, search in benchmark.protocol.searches.items()},
    }


def _skipped(judged: JudgedItems, inserted: int) -> list[dict[str, Any]]:
    """The parts that some items have no numbers of, and why, by the example of one."""
    skipped = []
    for part in PARTS:
        why = {item.case.id: item.skipped[part] for item in judged.items if part in item.skipped}
        if why:
            known = {"part": part, "inserted": inserted, "items": len(why)}
            skipped.append(known | {"example": next(iter(why.values()))})
    return skipped


def repeated(cases: Sequence[Case], times: int) -> list[Case]:
    """Every case so many times: all of them once, then all of them again."""
    return [replace(case, repeat=number) for number in range(1, times + 1) for case in cases]


def _measured(
    run: _BenchmarkRun,
    names: Sequence[str],
    cases: Sequence[Case],
    inserted: int,
    pool: int,
    whose: str = "",
    parts: Collection[str] = tuple(PARTS),
) -> list[ItemMeasurements]:
    """What is known of the cases once everything that the experiments ``names`` need of ``parts`` is measured.

    ``whose`` tells them from other cases, where the budget does not allow them.
    """
    plan, benchmark = run.plan, run.benchmark
    for part in experiments.parts_of(names, inserted=inserted > 0):
        if part not in parts:
            continue
        if part == REWARD_MODEL and plan.models.reward_model is None:
            continue
        record_file = plan.record_file(benchmark, part, inserted, pool)
        some = _some(cases, part, plan.sizes)
        pool_file = plan.record_file(benchmark, "pool", inserted, pool)
        pools = _texts(pool_file, some) if part in AFTER_POOLS else {}
        left = collect(record_file, some, plan.processes, pools, run.budget, run.on_item, run.first)
        if left is not None:
            run.unmeasured.append(replace(left, what=left.what + whose))
    files = [plan.record_file(benchmark, part, inserted, pool) for part in PARTS]
    return read_records(files, cases)


def _some(cases: Sequence[Case], part: str, sizes: ItemCounts) -> list[Case]:
    """Those that a part is measured on: of the first so many items, every repeat that is not the same as the first."""
    limits = dict.fromkeys(RATES, sizes.rated) | dict.fromkeys(TIMED, sizes.timed)
    limits |= {
        "trees": sizes.trees,
        "other guidance": sizes.others,
        "draws": sizes.draws,
    }
    first = set(list(dict.fromkeys(case.id for case in cases))[: limits.get(part)])
    return [case for case in cases if case.id in first and (case.repeat == 1 or part not in ONCE)]


def _texts(record_file: RecordFile, cases: Sequence[Case]) -> dict[str, list[str]]:
    """The pools that were drawn, by the case's key."""
    return {
        item.case.key: [each.text for each in item.pool.answers]
        for item in read_records([record_file], cases)
        if item.pool is not None
    }


def _sight(
    run: _BenchmarkRun,
    items: Sequence[ItemMeasurements],
    compared: Sequence[methods.ComparedMethod],
) -> JudgedItems:
    """The items with what methods picked judged, once."""
    benchmark = run.benchmark

    def report_progress(done: int, total: int) -> None:
        run.on_item(f"{benchmark.name}: verdicts", done, total)

    judge = None if benchmark.exact else run.plan.judged_by
    known = repr((preftilt.__version__, benchmark.verdicts, judge))
    mark = sha256(known.encode()).hexdigest()[:10]
    path = run.plan.records / f"{benchmark.name}-verdicts-{mark}.jsonl"
    return JudgedItems(
        benchmark, items, settle(benchmark, picked(compared, items), path, report_progress)
    )


def _chosen(run: _BenchmarkRun, how: MeasureSettings, cases: Sequence[Case]) -> list[Calibration]:
    """The λ that does best on validation items, for each reduction; none on too few items to choose on."""
    # Pools alone, which Figure 4 is made of: λ is chosen by no more.
    items = _measured(run, ["fig4"], cases, 0, how.n, ", validation items")
    judged = _sight(run, items, experiments.every_pick(run.benchmark, how, how.n))
    calibrations = []
    for reduction in REDUCTIONS:
        options = options_of(LAMBDAS, (reduction,))
        each = [
            judged.values(methods.rear(how.n, option.lam, option.reduction)) for option in options
        ]
        values = np.array(each).T
        known = np.isfinite(values).all(axis=1)
        if known.sum() >= MIN_ITEMS:
            lost = int((~known).sum())
            calibrations.append(choose(options, values[known], n=how.n, left_out=lost))
    return calibrations


def _contexts(
    run: _BenchmarkRun, how: MeasureSettings, chosen: Sequence[Calibration], repeats: int
) -> dict[int, JudgedItems]:
    """What is seen in long contexts, by the messages inserted."""
    plan, benchmark = run.plan, run.benchmark
    wanted = any(experiments.EXPERIMENTS[name].contexts for name in plan.experiments)
    if not (wanted and benchmark.contexts):
        return {}
    compared = experiments.table_2(how, chosen)
    by_context = {}
    for inserted in filter(None, plan.inserted):
        cases = repeated(benchmark.test(inserted)[: plan.sizes.contexts], repeats)
        items = _measured(run, plan.experiments, cases, inserted, plan.measure.n)
        by_context[inserted] = _sight(run, items, compared)
    return by_context
