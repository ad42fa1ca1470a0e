"""Progress on a terminal's standard error; nothing at all anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from preftilt.run import OnProgress
from preftilt.run import Progress as Report


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A status line on a terminal; call it with its text."""
    if not sys.stderr.isatty():
        yield lambda words: None
        return
    with Console(stderr=True).status("") as status:
        yield status.update


@dataclass(slots=True)
class Meter:
    """Tokens and rows so far, over all requests in flight."""

    rows: int = 0
    failed: int = 0
    first_failure: str = ""
    began: float = field(default_factory=time.monotonic)
    on_row: Callable[[], None] = lambda: None
    _tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    _spent: tuple[int, int] = (0, 0)

    def start(self) -> None:
        """Count time from now on."""
        self.began = time.monotonic()

    def reporter(self, id: str) -> OnProgress:
        """An ``on_progress`` callback for the request called ``id`` here."""

        def report(progress: Report) -> None:
            self._tokens[id] = (progress.sampled, progress.scored)

        return report

    def finish(self, id: str, record: Mapping[str, Any]) -> None:
        """A row is done: its tokens are counted for good, by its record if it has one."""
        sampled, scored = self._tokens.pop(id, (0, 0))
        if "usage" in record:
            sampled, scored = record["usage"]["sampled"], sum(record["usage"]["scored"].values())
        self._spent = (self._spent[0] + sampled, self._spent[1] + scored)
        self.rows += 1
        if "error" in record:
            self.failed += 1
            told = "{type}: {message}".format_map(record["error"])
            self.first_failure = self.first_failure or told
        self.on_row()

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens sampled and scored so far."""
        flying = list(self._tokens.values())
        sampled, scored = self._spent
        return sampled + sum(s for s, _ in flying), scored + sum(s for _, s in flying)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def rate(self) -> str:
        """Tokens a second, sampled and scored together."""
        return f"{sum(self.tokens) / max(self.seconds, 1e-9):,.0f} tokens/s"


@contextmanager
def row_bar(meter: Meter, total: int, done_before: int) -> Iterator[None]:
    """A bar of rows with tokens/s and the remaining time, redrawn from ``meter`` a few times a second."""
    if not sys.stderr.isatty():
        yield
        return
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("rows "),
        _Rate(meter),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task("rows", total=total, completed=done_before)
        meter.on_row = lambda: bar.update(task, completed=done_before + meter.rows)
        yield


class _Rate(ProgressColumn):
    """Tokens a second, and failures if there are any."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, task: Task) -> Text:
        failed = f"  {self._meter.failed} failed" if self._meter.failed else ""
        return Text(self._meter.rate() + failed)


def say_line(words: str) -> None:
    """A line on a terminal that the next one replaces; nothing anywhere else."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)
