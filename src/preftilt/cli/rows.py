"""``preftilt run`` and ``preftilt score``: every row of a file, many in flight, one record a line as each is done."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Annotated, Any

import typer

from preftilt.api import Realigner, Settings
from preftilt.cli.cluster_rows import answer_on_cluster, check_cluster
from preftilt.cli.configure import (
    check_judges,
    check_model,
    engine_from,
    model_identity,
    open_judges,
)
from preftilt.cli.files import Output, input_rows, plan_output
from preftilt.cli.grouping import Flags
from preftilt.cli.options import (
    ClusterFlags,
    FileFlags,
    Input,
    ModelFlags,
    RowPreferences,
    SettingFlags,
    setting_flags,
)
from preftilt.cli.progress import Meter, row_bar, spinner
from preftilt.cli.tables import parse_lambdas, score_table
from preftilt.engines.loop import together
from preftilt.errors import BadInput
from preftilt.records.journal import Journal, check_dates, dated, shown_by
from preftilt.records.rows import CheckedRow, InputRow, ScoreRow
from preftilt.records.work import (
    CHECKED_FIRST,
    RecordKind,
    Work,
    check_items,
    realign_item,
    record_kind,
    record_of,
)
from preftilt.reward import LAMBDA
from preftilt.rivals import Method
from preftilt.run import OnProgress
from preftilt.search import Search


def run(
    *,
    source: Input,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT.jsonl", help="- is stdout.")
    ],
    preference: RowPreferences = None,
    flags: SettingFlags,
    model: ModelFlags,
    files: FileFlags,
    cluster: ClusterFlags,
) -> None:
    """Answer every row of a data set; a row's own "settings" come before these flags."""
    check_model(model)
    check_cluster(cluster)
    kind = record_kind(files.records)
    if cluster.ray is not None and (model.reward_model or model.judge_model):
        raise BadInput(
            "--ray opens one model on every actor; leave --reward-model and --judge-model out"
        )
    identity = model_identity(model) | {"command": "run"} | _records_identity(kind)
    methods = MethodsSeen()
    with input_rows(source, preference or (), flags, model, files, InputRow) as rows:
        planned = plan_output(source, output, rows, identity, files, methods.add)
        check_judges(model, methods.settings)
        if cluster.ray is None:
            answer = partial(_answer_here, realign_item, planned, identity, model, files)
        else:
            answer = partial(answer_on_cluster, planned, identity, model, files, cluster)
        _finish(planned, model.model, answer)


def score(
    *,
    source: Input,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT.jsonl", help="- is stdout.")
    ] = "-",
    preference: RowPreferences = None,
    lam: Annotated[
        list[str] | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER[,NUMBER…]",
            help=f"Score under each of these; may be repeated. (default: {LAMBDA:g})",
            rich_help_panel="Score",
        ),
    ] = None,
    flags: Annotated[Flags, setting_flags("method", "score", "prompt")],
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Score given responses under one λ or several; nothing is drawn."""
    check_model(model)
    lams = parse_lambdas(lam or ())
    kind = record_kind(files.records)
    if kind == "text":
        raise BadInput(
            "--records text keeps an answer without its scores; of score it is full or scores"
        )
    flags = {**flags, "lambda": lams[0]} if lams else flags
    methods = MethodsSeen()
    unweighed: list[int] = []

    def look(item: CheckedRow) -> None:
        methods.add(item)
        if lams and not unweighed and not item.preferred:
            unweighed.append(item.line)

    async def score_one(
        realigner: Realigner, item: CheckedRow, report: OnProgress
    ) -> dict[str, Any]:
        result = await realigner.score(
            item.messages,
            item.preferences,
            item.responses,
            settings=item.settings,
            item=item.id,
            on_progress=report,
        )
        return result.to_json() | score_table(result, item, lams[1:])

    command = {"command": "score", "lambdas": lams[1:]}
    identity = model_identity(model) | command | _records_identity(kind)
    with input_rows(source, preference or (), flags, model, files, ScoreRow) as rows:
        planned = plan_output(source, output, rows, identity, files, look)
        if unweighed:
            raise BadInput(
                f"line {unweighed[0]}: --lambda does nothing without a preference; reward models have --arm-weight"
            )
        check_judges(model, methods.settings)
        answer = partial(_answer_here, score_one, planned, identity, model, files)
        _finish(planned, model.model, answer)


@dataclass(frozen=True, slots=True)
class MethodsSeen:
    """The rows' settings, one for every distinct search and method."""

    _seen: dict[tuple[Search, Method], Settings] = field(default_factory=dict)

    def add(self, item: CheckedRow) -> None:
        self._seen.setdefault((item.settings.search, item.settings.method), item.settings)

    @property
    def settings(self) -> list[Settings]:
        return [*self._seen.values()]


def _records_identity(kind: RecordKind) -> dict[str, str]:
    """The kind of record is a part of the run's identity, unless it is the full one."""
    return {} if kind == "full" else {"records": kind}


def _finish(output: Output, model: str, answer: Callable[[Meter], None]) -> None:
    """Do the rows that are left by ``model``, say how it went, and exit 1 if a row failed."""
    if not output.todo:
        _say(f"nothing left to do: {output.path} has all {output.done} rows")
        return
    meter = Meter()
    try:
        answer(meter)
    except KeyboardInterrupt:
        _say(_interrupted(output, meter))
        raise typer.Exit(130) from None
    _say(_summary(output, model, meter))
    if meter.failed:
        raise typer.Exit(1)


def _answer_here(
    work: Work,
    output: Output,
    identity: Mapping[str, Any],
    model: ModelFlags,
    files: FileFlags,
    meter: Meter,
) -> None:
    """By one engine in this process."""
    with spinner() as doing:
        doing(f"opening {model.model}")
        stack = ExitStack()
        engine = stack.enter_context(closing(engine_from(model)))
        judges = stack.enter_context(closing(open_judges(model)))
    with stack:
        meter.start()
        realigner = Realigner(engine, judges=judges)
        check_dates(output.records, engine)
        identity = dated(identity, shown_by(engine))
        items = output.items()
        first = [*islice(items, CHECKED_FIRST)]
        check_items(realigner, first)
        journal = output.open()
        rows = _Rows(work, realigner, identity, record_kind(files.records))
        with row_bar(meter, output.todo + output.done, output.done):
            asyncio.run(_all(rows, chain(first, items), journal, files.concurrency, meter))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The work on a row, and how its record is made."""

    work: Work
    realigner: Realigner
    identity: Mapping[str, Any]
    kind: RecordKind

    async def record(self, item: CheckedRow, report: OnProgress) -> dict[str, Any]:
        mark = item.fingerprint(self.identity)
        return await record_of(self.work, self.realigner, item, mark, report, self.kind)


async def _all(
    rows: _Rows, items: Iterable[CheckedRow], journal: Journal, concurrency: int, meter: Meter
) -> None:
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            record = await rows.record(item, meter.reporter(item.id))
            journal.write(record)
            meter.finish(item.id, record)

    try:
        await together(worker() for _ in range(concurrency))
    finally:
        journal.close()


def _summary(output: Output, model: str, meter: Meter) -> str:
    sampled, scored = meter.tokens
    parts = [f"{meter.rows} rows in {meter.seconds:.1f} s by {model}"]
    if output.done:
        parts.append(f"{output.done} were done before")
    if meter.failed:
        parts.append(f"{meter.failed} failed, the first with {meter.first_failure}")
    if sampled or scored:
        parts.append(f"{sampled:,} tokens sampled, {scored:,} scored ({meter.rate()})")
    again = " (--resume tries the failed rows again)" if meter.failed and output.path else ""
    return "; ".join(parts) + again


def _interrupted(output: Output, meter: Meter) -> str:
    done = f"interrupted after {output.done + meter.rows} of {output.done + output.todo} rows"
    if output.path is None:
        return done
    call = [word for word in sys.argv[1:] if word not in ("--resume", "--force")]
    return f"{done}; {output.path} is valid; go on with: preftilt {shlex.join([*call, '--resume'])}"


def _say(words: str) -> None:
    print(f"preftilt: {words}", file=sys.stderr)
