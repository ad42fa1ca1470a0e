"""``preftilt run`` and ``preftilt score``: every row of a file, many in flight, one record a line as each is done."""

from __future__ import annotations

import asyncio
import io
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import typer

from preftilt.api import Realigner
from preftilt.cli.configure import (
    Flags,
    check_model,
    engine_from,
    model_identity,
    read_source,
    settings_from,
)
from preftilt.cli.options import FileFlags, ModelFlags
from preftilt.cli.output import Output, plan_output
from preftilt.cli.progress import Meter, row_bar, spinner
from preftilt.cli.tables import parse_lambdas, score_table
from preftilt.errors import BadInput, EngineError, PreftiltError
from preftilt.records import Item, Journal, Row, ScoreRow, error_record, read_items
from preftilt.run import OnProgress

Work = Callable[[Realigner, Item, OnProgress], Awaitable[dict[str, Any]]]
"""What is done with a row; returns its record, or raises."""


def run(
    source: str,
    output: str,
    lam: float | None,
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Realign every row."""
    check_model(model)
    items = _items(source, lam, flags, Row)

    async def realign(realigner: Realigner, item: Item, report: OnProgress) -> dict[str, Any]:
        result = await realigner.realign(
            item.messages,
            item.preferences,
            settings=item.settings,
            item=item.id,
            on_progress=report,
        )
        return result.to_json()

    identity = model_identity(model) | {"command": "run"}
    _finish(realign, plan_output(source, output, items, identity, files), identity, model, files)


def score(
    source: str,
    output: str,
    lambdas: Sequence[str],
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Score every row's responses under every λ."""
    check_model(model)
    lams = parse_lambdas(lambdas)
    items = _items(source, lams[0] if lams else None, flags, ScoreRow)

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
    _finish(score_one, plan_output(source, output, items, identity, files), identity, model, files)


def _items(source: str, lam: float | None, flags: Flags, row: type[Row]) -> list[Item]:
    name = "standard input" if source == "-" else source
    base = settings_from(lam, flags)
    return read_items(io.BytesIO(read_source(source)), source=name, base=base, model=row)


def _finish(
    work: Work,
    output: Output,
    identity: Mapping[str, Any],
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Do the rows that are left, say how it went, and exit 1 if a row failed."""
    if not output.todo:
        _say(f"nothing left to do: {output.path} has all {output.done} rows")
        return
    with spinner() as doing:
        doing(f"opening {model.model}")
        engine = engine_from(model)
    meter, realigner = Meter(), Realigner(engine)
    try:
        _check_prompts(realigner, output.todo)
        journal = output.open()
        with row_bar(meter, len(output.todo) + output.done, output.done):
            asyncio.run(
                _all(work, realigner, output.todo, journal, identity, files.concurrency, meter)
            )
    except KeyboardInterrupt:
        _say(_interrupted(output, meter))
        raise typer.Exit(130) from None
    finally:
        engine.close()
    _say(_summary(output, meter))
    if meter.failed:
        raise typer.Exit(1)


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
            try:
                record = await work(realigner, item, meter.reporter(item.id)) | {
                    "fingerprint": mark
                }
            except Exception as failure:
                record = error_record(item.id, failure, mark)
            journal.write(record)
            meter.finish(item.id, record)

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        journal.close()


def _check_prompts(realigner: Realigner, items: Iterable[Item]) -> None:
    """Refuse rows whose prompts or responses cannot be read or do not fit, all at once and before the first token."""
    problems: list[tuple[int, PreftiltError]] = []
    for item in items:
        try:
            query, _ = realigner.check(item.messages, item.preferences, settings=item.settings)
            if item.responses:
                realigner.check_responses(query, item.responses)
        except BadInput as failure:
            problems.append((item.line, failure))
        except (
            EngineError
        ):  # A tokenizer that stumbles over one row: that row fails when its turn comes.
            continue
    if problems:
        line, first = problems[0]
        others = ", ".join(str(line) for line, _ in problems[1:6])
        more = f" (the same or another problem: line {others}{' …' if problems[6:] else ''})"
        raise BadInput(f"line {line}: {first}{more if others else ''}")


def _summary(output: Output, meter: Meter) -> str:
    sampled, scored = meter.tokens
    parts = [f"{meter.rows} rows in {meter.seconds:.1f} s"]
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
