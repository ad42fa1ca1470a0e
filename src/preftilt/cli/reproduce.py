"""``preftilt reproduce``: the experiments of the REAR paper, and their report."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preftilt.cli.configure import check_model, judge_options, options_from, reward_options
from preftilt.cli.options import Defaults, Flags, ModelFlags, flags_from, option
from preftilt.engines.models import DEMO
from preftilt.errors import BadInput
from preftilt.eval.benchmarks import BENCHMARKS, open_benchmarks
from preftilt.eval.harness.benchmark import Benchmark, Opening, json_object
from preftilt.eval.report import markdown, page
from preftilt.eval.reproduce.collecting import MeasuredModels, OnItem, identity_of
from preftilt.eval.reproduce.experiments import TOKEN_LEVEL, named, reference_of
from preftilt.eval.reproduce.figures import draw_figures
from preftilt.eval.reproduce.parts import MeasureSettings
from preftilt.eval.reproduce.report import blocks, title_of
from preftilt.eval.reproduce.running import SCHEMA, ItemCounts, ReproducePlan
from preftilt.eval.reproduce.running import reproduce as measure_missing
from preftilt.eval.runner import cores
from preftilt.plots import check_picture
from preftilt.records.lines import write_json, write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentFlags:
    """What is measured and how: the benchmarks, and what the classes of the evaluation declare."""

    benchmark: Annotated[
        list[str] | None,
        option(
            "Experiment",
            "--benchmark",
            "-b",
            metavar="NAME",
            help=f"{', '.join(BENCHMARKS)}; may be repeated.",
            default="demo-world",
        ),
    ] = None
    opening: Annotated[Flags, flags_from(Opening, "Experiment", without=("logs",))] = field(
        default_factory=dict
    )
    plan: Annotated[
        Flags,
        flags_from(
            ReproducePlan, "Sizes", ("reference", "inserted", "repeats", "max_tokens_total")
        ),
    ] = field(default_factory=dict)
    measure: Annotated[Flags, flags_from(MeasureSettings, "Sizes")] = field(default_factory=dict)
    counts: Annotated[Flags, flags_from(ItemCounts, "Sizes")] = field(default_factory=dict)
    processes: Annotated[
        int | None,
        option(
            "Sizes", min=1, help="Share items among them.", default="the cores for demo; else one"
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFlags:
    """Where it goes."""

    output: Annotated[
        Path, option("Output", "--output", "-o", metavar="DIR", help="Report and figures.")
    ] = Path("out/reproduce")
    records: Annotated[
        Path | None,
        option(
            "Output", metavar="DIR", help="What was measured, item by item.", default="DIR/records"
        ),
    ] = None
    figures_only: Annotated[
        bool,
        option(
            "Output",
            "--figures-only",
            help="Draw and tell the report in DIR again; measure nothing.",
        ),
    ] = False


def reproduce(
    *,
    experiments: Annotated[
        list[str],
        typer.Argument(
            metavar="table1|table2|table3|fig2|fig3|fig4|fig5|fig6|all|avoiding|equal-tokens|BENCHMARK…",
            help="Experiments of the paper; avoiding: wishes to leave something out; equal-tokens: how many draws are"
            " worth their tokens; a benchmark's name: picking whole answers beside guiding every token on it.",
        ),
    ],
    what: ExperimentFlags,
    model: Annotated[ModelFlags, Defaults({"model": DEMO})],
    report: ReportFlags,
) -> None:
    """Repeat experiments of the REAR paper on your model: tables and figures with intervals, resumable.

    Without --benchmark it is the demo world: offline, checked exactly, no judge.
    """
    experiments, what = _by_benchmark(experiments, what)
    names = named(experiments)
    check_picture(report.output / "figure.png")
    if report.figures_only:
        _tell(_saved(report.output), report.output)
        return
    check_model(model)
    records = report.records or report.output / "records"
    opening = _opening(what.opening, report.output)
    plan = _plan(names, what, model, records)
    benchmarks = open_benchmarks(what.benchmark or (), opening)
    _check(plan, benchmarks)
    report.output.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["preftilt", *sys.argv[1:]])
    with _bars() as on_item:
        results = measure_missing(plan, benchmarks, command, on_item)
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


def _opening(flags: Flags, folder: Path) -> Opening:
    switches = json_object(flags.get("switches"), "--switches")
    return Opening(**{**flags, "switches": switches}, logs=str(folder / "logs"))


def _plan(
    names: Sequence[str], what: ExperimentFlags, model: ModelFlags, records: Path
) -> ReproducePlan:
    measure, plan = dict(what.measure), dict(what.plan)
    for name, flag in (
        ("lambdas", "--tree-lambdas"),
        ("guided_lambdas", "--guided-lambdas"),
        ("drawn_lambdas", "--drawn-lambdas"),
    ):
        if name in measure:
            measure[name] = tuple(_numbers(measure[name], flag, float))
    how = MeasureSettings(
        **{**measure, "settings": json_object(measure.get("settings"), "--settings")}
    )
    how = replace(how, lambdas=tuple(sorted(set(how.lambdas))), pool=measure.get("pool", how.n))
    if how.pool < how.n:
        raise BadInput(f"--pool is {how.pool}, less than the {how.n} of --n that methods pick from")
    if "inserted" in plan:
        plan["inserted"] = tuple(_numbers(plan["inserted"], "--inserted", int))
    own = ReproducePlan(
        experiments=names,
        models=_models(model),
        measure=how,
        sizes=ItemCounts(**what.counts),
        processes=cores()
        if what.processes is None and model.model == "demo"
        else what.processes or 1,
        records=records,
        judged_by=what.opening.get("judge"),
        max_judge_calls=what.opening.get("max_judge_calls"),
        **plan,
    )
    return replace(own, inserted=tuple(sorted({0, *own.inserted})))


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
