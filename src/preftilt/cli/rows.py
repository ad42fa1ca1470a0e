"""``preftilt run`` and ``preftilt score``: every row of a file, many in flight, one record a line as each is done.

With ``--ray`` the rows go to the actors of a Ray cluster, and their records into the same file. ``preftilt schema``
prints the JSON Schemas of what is written and read.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from typer import Argument

from preftilt.api import Realigner, Settings
from preftilt.cli.configure import (
    check_judges,
    check_model,
    engine_from,
    model_identity,
    open_judges,
    options_from,
    parse_lambdas,
)
from preftilt.cli.files import Output, input_rows, plan_output
from preftilt.cli.options import (
    ClusterFlags,
    FileFlags,
    Flags,
    Input,
    ModelFlags,
    RowPreferences,
    SettingFlags,
    flag,
    setting_flags,
)
from preftilt.cli.show import Meter, row_bar, spinner
from preftilt.engines.waiting import together
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
from preftilt.result import Realigned, ScoredCandidate, number
from preftilt.reward import LAMBDA, lines, order
from preftilt.rivals import Method
from preftilt.run import OnProgress
from preftilt.search import Search
from preftilt.types import ArmTerm, Candidate

if TYPE_CHECKING:
    from preftilt.cluster import ActorRequest


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


def schema(
    name: Annotated[
        str,
        Argument(
            metavar="realigned|scores|text|error|influence|row|score-row",
            help="Which object: a result, a failed row's record, or a row of the input.",
        ),
    ] = "realigned",
) -> None:
    """Print the JSON Schema of what preftilt writes or reads."""
    from preftilt.records.schemas import schema_text

    print(schema_text(name), end="")


def score_table(result: Realigned, item: CheckedRow, more: Sequence[float]) -> dict[str, Any]:
    """``scores``: for every λ, the candidates' scores in their order, and the index of the best.

    A preference with its own strength keeps it under every λ, and so do reward models.
    """
    rows: list[dict[str, Any]] = []
    own = item.settings.strength if item.preferred else result.lam
    arms = tuple(ArmTerm(view.weight, 0.0) for view in result.views if view.arm is not None)
    for lam in dict.fromkeys([own, *more]):
        scores = _scores(result.candidates, lam, item, arms)
        cut_off = [candidate.cut_off for candidate in result.candidates]
        best = order(scores, cut_off, item.settings.reward.cut_off)[0]
        rows.append(
            {"lambda": lam, "candidate": best, "scores": [number(score) for score in scores]}
        )
    return {"scores": rows}


def _scores(
    scored: Sequence[ScoredCandidate], lam: float, item: CheckedRow, arms: tuple[ArmTerm, ...]
) -> list[float]:
    """S at λ; the strengths stand in for the ratios, so that λ = 0 needs no division."""
    strengths = tuple(lam if p.strength is None else p.strength for p in item.preferences)
    if item.preferred and not strengths:
        strengths = (lam,)
    pool = [
        Candidate(
            response.tokens,
            np.stack(list(response.logprobs.values())),
            response.finish,
            thoughts=response.thoughts,
        )
        for response in scored
    ]
    return [line.at(1.0) for line in lines(pool, strengths, item.settings.reward, arms)]
