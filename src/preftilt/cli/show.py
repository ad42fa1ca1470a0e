"""What ``ask`` prints for people: the two answers, the candidates, what λ does, and what it cost; and progress on a
terminal's standard error, nothing at all anywhere else."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from preftilt.effect import StrengthEffect
from preftilt.result import Realigned, ScoredCandidate
from preftilt.run import OnProgress
from preftilt.run import Progress as Report

if TYPE_CHECKING:
    from preftilt.example import ExampleFit

SIDE_BY_SIDE = 140
"""Columns from which on the two answers stand beside each other."""

WINNER, ALONE = "▶", "◇"


def print_json(record: Mapping[str, Any]) -> None:
    """One object on standard output; what its encoding does not take, JSON spells."""
    utf8 = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print(json.dumps(record, ensure_ascii=not utf8, allow_nan=False))


@dataclass(frozen=True, slots=True)
class Show:
    """Printing to one console; a pipe gets plain text, in full."""

    console: Console

    def answers(self, result: Realigned, plain: Realigned | None) -> None:
        """The realigned answer, and the model's own one beside or below it."""
        shown = [self._box("Realigned answer", result.text, "bold green")]
        if plain is not None and plain.text == result.text:
            self.print(shown[0])
            self.print(Text("The model alone answers the same.\n"))
            return
        if plain is not None:
            drawn = result.settings["generate_with"]
            prompt = "same prompt" if drawn == "full" else "with the preference in the prompt"
            shown.append(self._box(f"The model alone (greedy, {prompt})", plain.text, "dim"))
        if self._is_wide() and len(shown) == 2:
            grid = Table.grid(expand=True, padding=(0, 1))
            grid.add_column(ratio=1)
            grid.add_column(ratio=1)
            grid.add_row(*shown)
            self.print(grid)
            return
        for panel in shown:
            self.print(panel)

    def candidates(self, result: Realigned, plain: Realigned | None) -> None:
        """A table, best first: equal answers share a row."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
        picked_by = [] if result.method is None else [result.method["name"]]
        for name in ("", "#", *picked_by, "score", "question", "gain", "tokens"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("answer", no_wrap=True, overflow="ellipsis", ratio=1)
        times = Counter(candidate.tokens for candidate in result.candidates)
        for candidate in result.candidates:
            count = times.pop(candidate.tokens, 0)
            if count:
                mark, style = (WINNER, "bold") if candidate.rank == 1 else ("", "")
                first = (mark, str(candidate.rank), *(_method_cell(candidate) for _ in picked_by))
                table.add_row(*first, *_cells(candidate, count), style=style)
        if plain is not None:
            [alone] = plain.candidates
            table.add_row(ALONE, "", *("" for _ in picked_by), *_cells(alone, 1), style="dim")
        self.print(table)
        note = f"score = question + λ · gain, λ = {result.lam:g}; log-probs in {result.unit}"
        if result.settings["reduction"] == "centred":
            note += ", against the candidates' mean"
        if result.settings.get("against"):
            note += "; question: with the contrast in the prompt"
        if plain is not None:
            note += f"; {ALONE} the model alone"
        if any(candidate.finish == "length" for candidate in result.candidates):
            note += "; + is cut off"
        self.print(Text(f"{note}\n", style="dim"))

    def path(self, result: Realigned) -> None:
        """Which candidate every λ would choose."""
        self.print(Text("What λ does", style="bold"))
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for segment in result.path:
            candidate = result.candidates[segment.candidate]
            same = candidate.tokens == result.candidates[0].tokens
            words = Text("this answer", style="bold green") if same else Text(_brief(candidate))
            table.add_row(
                f"  λ {interval(segment.start, segment.stop)}", f"#{candidate.rank}", words
            )
        self.print(table)
        self.print(Text(""))

    def effect(self, result: Realigned) -> None:
        """One line: what λ and the preference did."""
        if result.effect is not None:
            self.print(Text(f"{_effect_line(result.effect, result.lam)}\n", style="dim"))

    def example(self, fit: ExampleFit, result: Realigned) -> None:
        """Which λ would have given the answer that the user likes."""
        self.print(Text("The answer you like", style="bold"))
        which = "among" if fit.candidate is not None else "beside"
        count = f"{len(result.candidates)} candidates"
        chosen = fit.chosen
        several = len(result.candidates) > 1
        if several and chosen.intervals:
            told = ", ".join(interval(start, stop) for start, stop in chosen.intervals)
            self.print(Text(f"  {which} the {count} it is chosen for λ {told}"))
        elif several:
            self.print(
                Text(
                    f"  {which} the {count} no λ chooses it; it is closest at λ = {short(chosen.nearest)},"
                    f" {chosen.behind:.2f} {result.unit} behind"
                )
            )
        if fit.guided is None:
            self.print(Text("  what λ guided decoding would need, this engine cannot tell\n"))
            return
        guided = fit.guided
        at_best = guided.logprobs[guided.lambdas.index(guided.best)]
        more = ""
        if guided.best == 0.0:
            more = ": the preference makes it less likely"
        elif 1.0 in guided.lambdas:
            gained = at_best - guided.logprobs[guided.lambdas.index(1.0)]
            more = f", {gained:.2f} nats more than at λ = 1"
        self.print(
            Text(
                f"  guided decoding draws it most likely at λ = {short(guided.best)}"
                f" ({short(guided.low)} – {short(guided.high)}){more}\n"
            )
        )

    def why(self, result: Realigned) -> None:
        """The answer's tokens by preference gain."""
        from preftilt.explain import explained, legend, signed, strongest, visible

        self.print(Text("Why: preference gain of the answer's tokens", style="bold"))
        if self.console.is_terminal:
            self.print(Padding(explained(result), (0, 2)))
            self.print(Padding(legend(result), (0, 2)))
        for name, tokens in zip(("for", "against"), strongest(result), strict=True):
            told = ", ".join(
                f"“{visible(token.text).strip()}” {signed(token.gain)}" for token in tokens
            )
            self.print(Text(f"  most {name} it: {told or 'none'}"))
        self.print(Text(""))

    def cost(self, result: Realigned, plain: Realigned | None) -> None:
        """One line: tokens, seconds, and what to repeat the answer with."""
        both = [run for run in (result, plain) if run is not None]
        judged = result.usage.get("method", {})
        sampled = sum(run.usage["sampled"] for run in both)
        scored = sum(sum(run.usage["scored"].values()) for run in both)
        reused = sum(run.usage["reused"] for run in both)
        free = f" ({reused:,} more came with the sampling)" if reused else ""
        picking = f", {judged['tokens']:,} read to pick" if judged.get("tokens") else ""
        seconds = max(run.timing["total"] for run in both)
        self.print(
            Text(
                f"{sampled:,} tokens sampled, {scored:,} scored{free}{picking}, {seconds:.1f} s; "
                f"{result.model}, seed {result.seed}",
                style="dim",
            )
        )
        for note in result.notes:
            self.print(Text(f"note: {note}", style="yellow"))

    def _box(self, title: str, text: str, style: str) -> RenderableType:
        body = Text(safe(text.strip()))
        if self.console.is_terminal:
            return Panel(body, title=title, title_align="left", border_style=style, padding=(0, 1))
        return Group(Text(title + ":"), body, Text(""))

    def _is_wide(self) -> bool:
        return self.console.is_terminal and self.console.width >= SIDE_BY_SIDE

    def print(self, what: RenderableType) -> None:
        """One thing; to a pipe without trailing white space, and texts in one piece."""
        if self.console.is_terminal:
            self.console.print(what, markup=False, highlight=False)
            return
        with self.console.capture() as capture:
            unwrapped = isinstance(what, Group | Text)
            self.console.print(what, markup=False, highlight=False, soft_wrap=unwrapped)
        for line in capture.get().splitlines():
            self.console.file.write(line.rstrip() + "\n")


def safe(text: str) -> str:
    """An answer without control characters that a terminal would obey."""
    return "".join(
        character if character in "\n\t" or character.isprintable() else "\ufffd"
        for character in text
    )


def _method_cell(candidate: ScoredCandidate) -> str:
    """What the method made of a candidate: its score, and the answer it votes for."""
    if candidate.method is None or candidate.method.score is None:
        return "none"
    voted = f" ({safe(candidate.method.answer)})" if candidate.method.answer else ""
    return f"{candidate.method.score:.2f}{voted}"


def _cells(candidate: ScoredCandidate, count: int) -> Sequence[str]:
    many = f"×{count} " if count > 1 else ""
    cut = "+" if candidate.finish == "length" else ""
    return (
        f"{candidate.score:.2f}",
        f"{candidate.question_logprob:.2f}",
        f"{candidate.preference_gain:+.2f}",
        f"{len(candidate.tokens)}{cut}",
        many + _brief(candidate),
    )


def _brief(candidate: ScoredCandidate) -> str:
    return " ".join(safe(candidate.text).split()) or "(empty)"


def _effect_line(effect: StrengthEffect, lam: float) -> str:
    moved = f"the preference moves the answer's tokens by {effect.difference:.2f} nats each"
    if effect.share is None:
        return moved[0].upper() + moved[1:]
    return f"λ = {lam:g} makes {effect.share:.0%} of the spread of the scores; {moved}"


def interval(start: float, stop: float) -> str:
    """λ from ``start`` to ``stop``, which may be infinite."""
    return f"from {short(start)}" if stop == float("inf") else f"{short(start)} – {short(stop)}"


def short(lam: float) -> str:
    """λ to three digits, whole from 1,000 on, never in powers of ten."""
    return f"{lam:,.0f}" if abs(lam) >= 999.5 else f"{Decimal(f'{lam:.3g}'):f}"


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
