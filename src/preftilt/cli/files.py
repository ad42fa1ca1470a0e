"""Rows of the input, and where their records go: which rows are left to do is decided before a model is opened.

The input is read anew whenever it is gone through: a long file is never held in memory.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from preftilt.cli.configure import arms_from, settings_from
from preftilt.cli.options import FileFlags, Flags, ModelFlags
from preftilt.errors import BadInput
from preftilt.prompt import parse_preference
from preftilt.records.journal import Journal, JournalEntry, Shown, Survey, dated, survey
from preftilt.records.lines import file_lines, lines_of
from preftilt.records.rows import CheckedRow, InputRow, iter_items
from preftilt.records.work import SCHEMAS
from preftilt.search import AutoSearch


@dataclass(frozen=True, slots=True)
class InputRows:
    """``lines`` begins the input anew, ``items`` makes rows of its lines; all that is wrong is raised in the end."""

    lines: Callable[[], Iterator[bytes]]
    items: Callable[[Iterator[bytes]], Iterator[CheckedRow]]

    def __iter__(self) -> Iterator[CheckedRow]:
        return self.items(self.lines())


@contextmanager
def input_rows(
    source: str,
    preferences: Sequence[str],
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
    row: type[InputRow],
) -> Iterator[InputRows]:
    """The rows of a file, or of standard input for ``-``, to be read within the context."""
    name = "standard input" if source == "-" else source
    base = settings_from(flags, list(arms_from(model)))
    preferred = [parse_preference(text) for text in preferences]

    def items(lines: Iterator[bytes]) -> Iterator[CheckedRow]:
        try:
            yield from iter_items(
                lines,
                source=name,
                base=base,
                model=row,
                preferred=preferred,
                keep_columns=files.keep_columns,
            )
        except BadInput as failure:
            if re.search(r'unknown field "[^".]+"', str(failure)):
                raise BadInput(
                    f"{failure} (--keep-columns carries other fields along into the records)"
                ) from None
            raise

    path = Path(source)
    with ExitStack() as opened:
        if source != "-" and (path.is_file() or not path.exists()):
            yield InputRows(lambda: file_lines(path), items)
            return
        stream = sys.stdin.buffer if source == "-" else opened.enter_context(path.open("rb"))
        spool = opened.enter_context(tempfile.TemporaryFile())  # What flows by once is kept.
        shutil.copyfileobj(stream, spool)
        spool.flush()
        yield InputRows(lambda: _from_start(spool.fileno(), name), items)


def _from_start(file: int, name: str) -> Iterator[bytes]:
    """The lines of an open file, from its start; one reader at a time."""
    with open(os.dup(file), "rb") as stream:
        stream.seek(0)
        yield from lines_of(stream, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The plan for an output file; ``path`` None is standard output.

    rows: all of them; todo, done: how many of the first ``limit`` are left to do, and were done before. again: ids of
    those left that failed before.
    """

    path: Path | None
    rows: Iterable[CheckedRow]
    limit: int | None
    todo: int
    done: int = 0
    known: Survey | None = None
    again: frozenset[str] = frozenset()

    def items(self) -> Iterator[CheckedRow]:
        """The rows that are left to do, read as they are asked for."""
        done = {} if self.known is None else self.known.done
        return (item for item in islice(self.rows, self.limit) if item.id not in done)

    @property
    def records(self) -> tuple[Mapping[str, Any], ...]:
        """Of the records in the file, the first of every date that prompts showed."""
        if self.path is None or self.known is None:
            return ()
        first: dict[Shown, JournalEntry] = {}
        for written in self.known.done.values():
            first.setdefault(written.shown, written)
        with self.path.open("rb") as file:
            read = [(written.line, written.read(file)) for written in first.values()]
        return tuple(
            {"line": line, "id": record["id"], "moment": record.get("moment")}
            for line, record in read
        )

    def open(self) -> Journal:
        """Open it for writing; a file to overwrite loses its content here."""
        if self.path is None:
            return Journal.standard_output()
        if self.known is None:
            return Journal.create(self.path)
        return Journal.resume(self.path, self.known, set(self.again))


def plan_output(
    source: str,
    output: str,
    rows: Iterable[CheckedRow],
    identity: Mapping[str, Any],
    files: FileFlags,
    look: Callable[[CheckedRow], None],
) -> Output:
    """Check the form of every row, and the output file against the rows and how the model is opened (``identity``).

    ``look`` is called with every row.
    """
    path, known = _place(source, output, files)
    count = 0
    wanted, again = 0, set()
    left = {} if known is None else dict(known.done)
    other: tuple[JournalEntry, CheckedRow] | None = None
    for count, item in enumerate(rows, start=1):
        look(item)
        if files.limit is None or count <= files.limit:
            wanted += known is None or item.id not in known.done
            if known is not None and item.id in known.failed:
                again.add(item.id)
        written = left.pop(item.id, None)
        if written is not None and written.fingerprint != item.fingerprint(
            dated(identity, written.shown)
        ):
            other = min(other or (written, item), (written, item), key=lambda pair: pair[0].line)
    if path is not None and known is not None:
        _check_same_run(path, left, other, identity)
    whole = count if files.limit is None else min(count, files.limit)
    return Output(
        path=path,
        rows=rows,
        limit=files.limit,
        todo=wanted,
        done=whole - wanted,
        known=known,
        again=frozenset(again),
    )


def _place(source: str, output: str, files: FileFlags) -> tuple[Path | None, Survey | None]:
    """The output file, None for standard output, and its records if the run is resumed."""
    if files.resume and files.force:
        raise BadInput("--resume and --force exclude each other")
    if output == "-":
        if files.resume or files.force:
            raise BadInput("--resume and --force need an output file, not standard output")
        return None, None
    path = Path(output)
    _check_place(path, source)
    if not path.is_file() or files.force:
        return path, None
    if not files.resume:
        raise BadInput(f"{path} exists: --resume goes on with it, --force overwrites it")
    return path, _read(path)


def _check_place(path: Path, source: str) -> None:
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}")
    if source != "-" and path.exists() and path.samefile(source):
        raise BadInput(f"{path} is the input; name another output file")


def _read(path: Path) -> Survey:
    try:
        return survey(path)
    except OSError as failure:
        raise BadInput(f"cannot read {path}: {failure.strerror}") from None


def _check_same_run(
    path: Path,
    strange: Mapping[str, JournalEntry],
    other: tuple[JournalEntry, CheckedRow] | None,
    identity: Mapping[str, Any],
) -> None:
    """Raise for records without a row (``strange``), and for the first that was made otherwise than its row is now."""
    for id, written in strange.items():
        raise BadInput(
            f'{path} line {written.line} (id "{id}") has no row in the input: it is the output of another one'
        )
    if other is not None:
        written, item = other
        with path.open("rb") as file:
            what = ", ".join(_differences(written.read(file), item, identity))
        raise BadInput(
            f'{path} line {written.line} (id "{item.id}") was made otherwise:'
            f" {what or 'other words or model options'}; repeat the old call to go on with it, name another file, or"
            " overwrite it with --force"
        )


def _differences(
    record: Mapping[str, Any], item: CheckedRow, identity: Mapping[str, Any]
) -> list[str]:
    """What can be told from a record: the model and the settings that differ, then and now."""
    settings, settings_then = item.settings, record.get("settings") or {}
    now: dict[str, Any] = {"seed": settings.seed, "max_tokens": settings.max_tokens}
    search = settings.search
    if isinstance(
        search, AutoSearch
    ):  # What it came to then still holds, but for what is asked of it.
        size = {} if search.n is None else {"n": search.n}
        now["search"] = {**settings_then.get("search", {}), **size}
    else:
        now["search"] = {"name": search.name} | asdict(search)
    now |= asdict(settings.reward) | asdict(settings.prompt) | asdict(settings.sampling)
    if all(preference.strength is None for preference in item.preferences):
        now["lambda"] = settings.lam
    then = {**settings_then, "seed": record.get("seed")}
    kinds = {schema: kind for kind, schema in SCHEMAS.items()}
    now["records"] = identity.get("records", "full")
    then["records"] = kinds.get(record.get("schema", ""), "full")
    if not identity["model"].endswith(record.get("model") or ""):  # A scheme may stand before it.
        now["model"], then["model"] = identity["model"], record["model"]
    return [
        f"{name} {_brief(then[name])}, now {_brief(value)}"
        for name, value in now.items()
        if name in then and value is not None and then[name] != value
    ]


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(
            str(part) if key == "name" else f"{key}={part!r}" for key, part in value.items()
        )
    return str(value)
