"""``preftilt run`` and ``preftilt score``: every row of a file, many in flight, one record a line as each is done."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import typer

from preftilt.api import Realigner
from preftilt.cli.cluster_rows import answer_on_cluster, check_cluster
from preftilt.cli.configure import (
    Flags,
    arms_from,
    check_model,
    engine_from,
    model_identity,
    settings_from,
    source_lines,
)
from preftilt.cli.judges import check_judges, open_judges
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import ClusterFlags, FileFlags
from preftilt.cli.output import Output, plan_output
from preftilt.cli.progress import Meter, row_bar, spinner
from preftilt.cli.tables import parse_lambdas, score_table
from preftilt.engines.loop import together
from preftilt.errors import BadInput
from preftilt.prompt import parse_preference
from preftilt.records import (
    Item,
    Journal,
    Row,
    ScoreRow,
    Work,
    check_items,
    read_items,
    realign_item,
    record_of,
)
from preftilt.run import OnProgress


def run(
    source: str,
    output: str,
    preferences: Sequence[str],
    lam: float | None,
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
    cluster: ClusterFlags,
) -> None:
    """Realign every row, here or on a cluster."""
    check_model(model)
    check_cluster(cluster)
    items = _items(source, preferences, lam, flags, model, files, Row)
    check_judges(model, [one.settings for one in items])
    if cluster.ray is not None and (model.reward_model or model.judge_model):
        raise BadInput(
            "--ray opens one model on every actor; leave --reward-model and --judge-model out"
        )
    identity = model_identity(model) | {"command": "run"}
    planned = plan_output(source, output, items, identity, files)
    if cluster.ray is None:
        answer = partial(_answer_here, realign_item, planned, identity, model, files)
    else:
        answer = partial(answer_on_cluster, planned, identity, model, files, cluster)
    _finish(planned, model.model, answer)


def score(
    source: str,
    output: str,
    preferences: Sequence[str],
    lambdas: Sequence[str],
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Score every row's responses under every λ."""
    check_model(model)
    lams = parse_lambdas(lambdas)
    lam = lams[0] if lams else None
    items = _items(source, preferences, lam, flags, model, files, ScoreRow)
    if lams and (alone := [one.line for one in items if not one.preferred]):
        raise BadInput(
            f"line {alone[0]}: --lambda does nothing without a preference; reward models have --arm-weight"
        )
    check_judges(model, [one.settings for one in items])

    async def score_one(realigner: Realigner, item: Item, report: OnProgress) -> dict[str, Any]:
        result = await realigner.score(
            item.messages,
            item.preferences,
            item.responses,
            settings=item.settings,
            item=item.id,
            on_progress=report,
        )
        return result.to_json() | score_table(result, item, lams[1:])

    identity = model_identity(model) | {"command": "score", "lambdas": lams[1:]}
    planned = plan_output(source, output, items, identity, files)
    _finish(planned, model.model, partial(_answer_here, score_one, planned, identity, model, files))


def _items(
    source: str,
    preferences: Sequence[str],
    lam: float | None,
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
    row: type[Row],
) -> list[Item]:
    try:
        return read_items(
            source_lines(source),
            source="standard input" if source == "-" else source,
            base=settings_from(lam, flags, list(arms_from(model))),
            model=row,
            preferred=[parse_preference(text) for text in preferences],
            keep_columns=files.keep_columns,
        )
    except BadInput as failure:
        if re.search(r'unknown field "[^".]+"', str(failure)):
            raise BadInput(
                f"{failure} (--keep-columns carries other fields along into the records)"
            ) from None
        raise


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
        check_items(realigner, output.todo)
        journal = output.open()
        with row_bar(meter, len(output.todo) + output.done, output.done):
            asyncio.run(
                _all(work, realigner, output.todo, journal, identity, files.concurrency, meter)
            )


async def _all(
    work: Work,
    realigner: Realigner,
    items: Iterable[Item],
    journal: Journal,
    identity: Mapping[str, Any],
    concurrency: int,
    meter: Meter,
) -> None:
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            mark = item.fingerprint(identity)
            record = await record_of(work, realigner, item, mark, meter.reporter(item.id))
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
    done = f"interrupted after {output.done + meter.rows} of {output.done + len(output.todo)} rows"
    if output.path is None:
        return done
    call = [one for one in sys.argv[1:] if one not in ("--resume", "--force")]
    return f"{done}; {output.path} is valid; go on with: preftilt {shlex.join([*call, '--resume'])}"


def _say(words: str) -> None:
    print(f"preftilt: {words}", file=sys.stderr)
