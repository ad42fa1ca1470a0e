"""``preftilt reproduce``: the experiments of the REAR paper, and their report."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preftilt.cli.configure import check_model, options_from
from preftilt.cli.judges import judge_options, reward_options
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.reproduce_options import ExperimentFlags, ReportFlags, SizeFlags
from preftilt.errors import BadInput
from preftilt.eval.benchmarks.table import BENCHMARKS, open_benchmarks
from preftilt.eval.harness.benchmark import Benchmark, Opening, json_object
from preftilt.eval.report import markdown, page
from preftilt.eval.reproduce.collecting import MeasuredModels, OnItem, identity_of
from preftilt.eval.reproduce.experiments import TOKEN_LEVEL, named, reference_of
from preftilt.eval.reproduce.figures import draw_figures
from preftilt.eval.reproduce.parts import MeasureSettings
from preftilt.eval.reproduce.report import blocks, title_of
from preftilt.eval.reproduce.running import SCHEMA, ItemCounts, ReproducePlan, reproduce
from preftilt.eval.runner import cores
from preftilt.plots import check_picture
from preftilt.records import write_json, write_text


def run_experiments(
    experiments: Sequence[str],
    what: ExperimentFlags,
    sizes: SizeFlags,
    model: ModelFlags,
    report: ReportFlags,
) -> None:
    """Measure what is missing, and write report.json, report.md, report.html and the figures."""
    experiments, what = _by_benchmark(experiments, what)
    names = named(experiments)
    check_picture(report.output / "figure.png")
    if report.figures_only:
        _tell(_saved(report.output), report.output)
        return
    check_model(model)
    records = report.records or report.output / "records"
    opening = _opening(what, sizes, report.output)
    plan = _plan(names, what, sizes, model, records)
    benchmarks = open_benchmarks(what.benchmark or (), opening)
    _check(plan, benchmarks)
    report.output.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["preftilt", *sys.argv[1:]])
    with _bars() as on_item:
        results = reproduce(plan, benchmarks, command, on_item)
    write_json(report.output / "report.json", results)
    _tell(results, report.output)
    if results["unmeasured"]:
        print("the budget of tokens is spent: the report is partial", file=sys.stderr)
    print(f"written to {report.output}; records in {records}", file=sys.stderr)


def _by_benchmark(
    experiments: Sequence[str], what: ExperimentFlags
) -> tuple[list[str], ExperimentFlags]:
    """A benchmark's name in place of an experiment's is the token-level comparison on it."""
    benchmarks = [name for name in experiments if name in BENCHMARKS]
    if not benchmarks:
        return list(experiments), what
    rest = [name for name in experiments if name not in BENCHMARKS]
    if what.benchmark:
        raise BadInput(
            f"{benchmarks[0]} is named as an experiment, beside --benchmark: name it with one of the two"
        )
    return [*rest, TOKEN_LEVEL], replace(what, benchmark=benchmarks)


def _tell(results: dict[str, Any], folder: Path) -> None:
    pictures = draw_figures(results, folder)
    told = blocks(results, pictures)
    text = markdown(told)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page(told, title_of(results), folder))
    print(text, end="")


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    try:
        results = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise BadInput(
            f"there is no report in {path}: leave --figures-only out once, or name its folder (-o)"
        ) from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise BadInput(f"{path} is not a report of this version of preftilt reproduce")
    return results


def _opening(what: ExperimentFlags, sizes: SizeFlags, folder: Path) -> Opening:
    return Opening(
        data=what.data,
        preset=what.preset,
        switches=json_object(what.switches, "--switches"),
        limit=sizes.limit,
        validation=sizes.validation,
        judge=what.judge,
        judge_prompts=what.judge_prompts,
        max_judge_calls=what.max_judge_calls,
        logs=str(folder / "logs"),
    )


def _plan(
    names: Sequence[str],
    what: ExperimentFlags,
    sizes: SizeFlags,
    model: ModelFlags,
    records: Path,
) -> ReproducePlan:
    pool = sizes.n if sizes.pool is None else sizes.pool
    if pool < sizes.n:
        raise BadInput(f"--pool is {pool}, less than the {sizes.n} of --n that methods pick from")
    return ReproducePlan(
        experiments=names,
        models=_models(model),
        measure=MeasureSettings(
            settings=json_object(what.settings, "--settings"),
            seed=what.seed,
            pool=pool,
            n=sizes.n,
            lambdas=tuple(sorted(set(_numbers(sizes.tree_lambdas, "--tree-lambdas", float)))),
            judge_tokens=sizes.rm_tokens,
            guided_lambdas=tuple(_numbers(sizes.guided_lambdas, "--guided-lambdas", float)),
            drawn_lambdas=tuple(_numbers(sizes.drawn_lambdas, "--drawn-lambdas", float)),
            drawn=sizes.drawn,
        ),
        inserted=tuple(sorted({0, *_numbers(sizes.inserted, "--inserted", int)})),
        sizes=ItemCounts(
            trees=sizes.tree_items,
            others=sizes.other_items,
            draws=sizes.drawn_items,
            rated=sizes.rated_items,
            contexts=sizes.context_items,
            timed=sizes.timed_items,
        ),
        processes=cores()
        if sizes.processes is None and model.model == "demo"
        else sizes.processes or 1,
        reference=what.reference,
        records=records,
        judged_by=what.judge,
        max_judge_calls=what.max_judge_calls,
        repeats=sizes.repeats,
        max_tokens_total=what.max_tokens_total,
    )


def _models(model: ModelFlags) -> MeasuredModels:
    """The models that the flags name; what they rate by matters to ratings alone."""
    options = options_from(model)
    identity = {
        "model": identity_of(model.model, options),
        "judge": model.judge_model,
        "reward model": model.reward_model,
    }
    return MeasuredModels(
        model=model.model,
        options=options,
        identity=identity["model"],
        raters=identity,
        judge=model.judge_model,
        judge_options=judge_options(model),
        reward_model=model.reward_model,
        reward_options=reward_options(model),
    )


def _check(plan: ReproducePlan, benchmarks: Sequence[Benchmark]) -> None:
    """What can be refused before a model is opened: settings that cannot be, lengths that there are no turns for."""
    for benchmark in benchmarks:
        how = plan.how(benchmark)
        reference_of(plan.reference, how)
        for search in ("greedy", "best-of-n", "dvts"):
            how.settings_for({"name": search})
        if benchmark.contexts and any(name in ("table2", "fig5") for name in plan.experiments):
            for inserted in plan.inserted:
                benchmark.test(inserted)


def _numbers(texts: str, flag: str, kind: Callable[[str], Any]) -> list[Any]:
    numbers = []
    for text in texts.split(","):
        try:
            value = kind(text)
        except ValueError:
            raise BadInput(f"{flag}: {text!r} is not a number it can be") from None
        if value < 0 or not math.isfinite(value):
            raise BadInput(f"{flag}: {text!r} is not a number it can be")
        numbers.append(value)
    return numbers


@contextmanager
def _bars() -> Iterator[OnItem]:
    """A bar for everything that is measured on a terminal, a line for each elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def update(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = progress.add_task(title, total=total)
            progress.update(tasks[title], completed=done, total=total)

        yield update


def _lines() -> OnItem:
    told: set[str] = set()

    def update(title: str, done: int, total: int) -> None:
        if done >= total and title not in told:
            told.add(title)
            print(f"{title}: {total}", file=sys.stderr)

    return update
