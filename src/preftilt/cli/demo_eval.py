"""``preftilt demo-eval``: measure the bundled model, or others trained on its world, and write the report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preftilt.demo.world import Split
from preftilt.errors import BadInput
from preftilt.eval.demo.collect import Draws
from preftilt.eval.demo.evaluate import OnItem, evaluate


def demo_eval(
    models: Sequence[str],
    out: Path,
    records: Path,
    limit: int | None,
    draws: Draws,
    processes: int,
) -> None:
    """Measure, write, and print the Markdown."""
    if min(draws.trees or 0, 1 if limit is None else limit, processes) < 1:
        raise BadInput("--limit, --trees and --processes must be at least 1")
    command = shlex.join(["preftilt", *sys.argv[1:]])
    with _bars() as on_item:
        text = evaluate(
            models,
            out,
            records,
            command=command,
            limit=limit,
            draws=draws,
            processes=processes,
            on_item=on_item,
        )
    print(text)
    print(f"written to {out}; records in {records}", file=sys.stderr)


@contextmanager
def _bars() -> Iterator[OnItem]:
    """A bar a model and split on a terminal, nothing anywhere else."""
    if not sys.stderr.isatty():
        yield lambda model, split, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _into(progress)


def _into(progress: Progress) -> Callable[[str, Split, int, int], None]:
    tasks = {}

    def update(model: str, split: Split, done: int, total: int) -> None:
        if (model, split) not in tasks:
            tasks[model, split] = progress.add_task(f"{model} {split}", total=total)
        progress.update(tasks[model, split], completed=done)

    return update
