"""The output file of a run: one JSON object a line, valid whenever the process dies.

A record is appended with a single write as soon as its row is done, so a killed process loses rows in flight only; a
torn last line can be left by a full disk or a power cut, and is cut off when the file is opened again. Records with
an error are dropped on resuming and their rows tried again, so that the file has one record an id in the end. The date
that a chat template shows is part of a record and of its fingerprint.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from preftilt.engines.base import Engine
from preftilt.errors import BadInput, PreftiltError
from preftilt.records.lines import json_line

Shown = tuple[str, ...]
"""What prompts show of the moment; empty if the template shows nothing of it."""


def shown_by(engine: Engine) -> Shown:
    """What prompts of ``engine`` show of the moment now."""
    moment = engine.tokenizer.moment
    return moment.shown if moment else ()


def shown_in(record: Mapping[str, Any]) -> Shown:
    """What the prompts of a record showed."""
    return tuple((record.get("moment") or {}).get("shown", ()))


def dated(identity: Mapping[str, Any], shown: Shown) -> Mapping[str, Any]:
    """All that fingerprints are made with besides the row: ``identity``, and the date where prompts show one."""
    return {**identity, "moment": list(shown)} if shown else identity


def check_dates(done: Iterable[Mapping[str, Any]], engine: Engine) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if prompts show another date now than in the records ``done``."""
    shown = shown_by(engine)
    for record in done:
        before = shown_in(record)
        if before == shown:
            continue
        then, now = (", ".join(dates) or "no date" for dates in (before, shown))
        moment = (record.get("moment") or {}).get("now")
        remedy = f"go on with --now {moment}" if moment else "go on without --now"
        raise BadInput(
            f'line {record["line"]} (id "{record["id"]}") was made with a prompt that shows {then}, and now it shows'
            f" {now}: {remedy}, or begin anew with --force"
        )


ERROR_SCHEMA = "preftilt.error/1"
SYNC_SECONDS = 1.0


class JournalEntry(NamedTuple):
    """A record in a file: its line, counted from 1, where that begins (byte), and its fingerprint, if it has one.

    ``shown`` is what its prompts showed of the moment.
    """

    line: int
    start: int
    fingerprint: str | None
    shown: Shown = ()

    def read(self, file: BinaryIO) -> dict[str, Any]:
        """The whole record."""
        file.seek(self.start)
        return json.loads(file.readline())


@dataclass(slots=True)
class Survey:
    """The state of an output file: its complete records by id, the ids that failed, and its valid length in bytes.

    torn: its last line is incomplete.
    """

    done: dict[str, JournalEntry] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    sound: int = 0
    torn: bool = False


def error_record(id: str, failure: BaseException, fingerprint: str) -> dict[str, Any]:
    """The record of a row that failed; a failure that nobody foresaw is marked as a defect of preftilt."""
    error: dict[str, Any] = {"type": type(failure).__name__, "message": str(failure)}
    if not isinstance(failure, PreftiltError | TimeoutError | OSError):
        error["defect"] = True
    return {"schema": ERROR_SCHEMA, "id": id, "fingerprint": fingerprint, "error": error}


def survey(path: Path) -> Survey:
    """Read an output file for resuming. Raises :class:`~preftilt.errors.BadInput` if it is not one."""
    known = Survey()
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                known.torn = True
                break
            record = _record(raw, f"{path} line {number}")
            id = record["id"]
            if id in known.done or id in known.failed:
                raise BadInput(f'{path} line {number}: a second record with id "{id}"')
            if "error" in record:
                known.failed.add(id)
            else:
                known.done[id] = JournalEntry(
                    number, known.sound, record.get("fingerprint"), shown_in(record)
                )
            known.sound += len(raw)
    return known


def _record(raw: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise BadInput(f"{where} is not a record of preftilt run: name another output file")
    return record


class Journal:
    """An output file open for appending; use :meth:`create`, :meth:`resume` or :meth:`standard_output`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._end = file.seek(0, os.SEEK_END) if self._regular else 0
        self._synced = time.monotonic()
        if self._regular:
            _lock(file, name)

    @classmethod
    def create(cls, path: Path) -> Journal:
        """A file that starts empty, whatever it held."""
        journal = cls(_open(path), str(path))
        if journal._regular:
            journal._file.truncate(0)
            journal._end = 0
        return journal

    @classmethod
    def resume(cls, path: Path, known: Survey, again: set[str]) -> Journal:
        """The file as surveyed, without a torn last line and without the records of ``again``."""
        journal = cls(_open(path), str(path))
        if not known.torn and journal._end != known.sound:
            journal.close()
            raise BadInput(
                f"{path} has changed since it was read: is another preftilt run writing it?"
            )
        journal._file.truncate(known.sound)
        journal._end = known.sound
        if not again:
            return journal
        with _explained(str(path)):
            _rewrite_without(path.resolve(), again)
        journal.close()
        return cls(_open(path), str(path))

    @classmethod
    def standard_output(cls) -> Journal:
        """Standard output, written record by record like a file."""
        return cls(os.fdopen(os.dup(1), "wb", buffering=0), "standard output")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, wholly or not at all."""
        line = json_line(record) + b"\n"
        try:
            with _explained(self._name):
                _write_all(self._file, line)
                if self._regular and time.monotonic() - self._synced > SYNC_SECONDS:
                    self._sync()
        except PreftiltError:
            if self._regular:
                with suppress(OSError):
                    self._file.truncate(self._end)
            raise
        self._end += len(line)

    def close(self) -> None:
        """Everything written is on the disk when this returns."""
        if self._file.closed:
            return
        try:
            if self._regular:
                with _explained(self._name):
                    self._sync()
        finally:
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("ab", buffering=0)
    except OSError as failure:
        raise BadInput(f"cannot open {path} for writing: {failure.strerror}") from None


def _rewrite_without(path: Path, ids: set[str]) -> None:
    """Rewrite the file beside itself without the records of ``ids``; the copy takes its place in one step."""
    beside = path.with_name(path.name + ".resuming")
    try:
        with path.open("rb") as old, beside.open("wb") as new:
            new.writelines(raw for raw in old if json.loads(raw)["id"] not in ids)
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(path, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _write_all(file: BinaryIO, line: bytes) -> None:
    """One write unless the disk is nearly full: then the rest is tried, which brings the error."""
    view = memoryview(line)
    write: Callable[[memoryview], int | None] = file.write
    while view:
        view = view[write(view) or 0 :]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as failure:
        raise PreftiltError(
            f"cannot write {name}: {failure.strerror or failure}; what was written before stays valid"
        ) from failure


def _lock(file: BinaryIO, name: str) -> None:
    """One writer at a time, where the system has locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BadInput(f"{name} is being written by another preftilt run") from None
    except OSError:
        return
