"""Items measured in several processes: a share of them each, with a file of its own that is folded into the one file.

A tiny model keeps one core busy and hardly a second one, so that processes help where threads do not. A process that
is killed leaves its file behind; the next run folds it in before it looks what is left to do.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread

from preftilt.records.journal import Survey, survey

LOOK_SECONDS = 0.5
"""How often the files of the shares are looked at to tell how far they have come."""

Work = Callable[[Sequence[str], Path], None]
"""Measure the items of these ids, one JSON line each into this file. It is pickled."""


def cores() -> int:
    """CPU cores that this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def surveyed(path: Path) -> Survey:
    """What ``path`` holds; nothing if there is no such file."""
    return survey(path) if path.exists() else Survey()


def in_shares(
    work: Work,
    ids: Sequence[str],
    path: Path,
    processes: int,
    on_done: Callable[[int], None] | None = None,
) -> None:
    """Have ``work`` done on those ``ids`` that ``path`` has no record of, and all records gathered in ``path``.

    With one process, or one id left, the work is done in this process. ``on_done`` hears how many of ``ids`` are
    done, about twice a second. The first failure of a share is raised when the others have ended; what was measured
    stays in the files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    gather(path)
    known = surveyed(path).done
    left = [id for id in ids if id not in known]
    count = min(processes, len(left))
    if count <= 1:
        if left:
            work(left, path)
    else:
        _spread(work, left, path, count, len(ids) - len(left), on_done)
        gather(path)
    if on_done is not None:
        done = surveyed(path).done
        on_done(sum(id in done for id in ids))


def gather(path: Path) -> None:
    """Append the records of the shares' files to ``path`` and remove the files; torn lines and repeats are left out."""
    for share in sorted(path.parent.glob(f"{path.stem}.share*{path.suffix}")):
        known = surveyed(path)
        of_share = survey(share)
        lines = share.read_bytes()[: of_share.sound].split(b"\n")
        numbers = [written.line for id, written in of_share.done.items() if id not in known.done]
        with path.open("r+b" if path.exists() else "wb") as whole:
            whole.truncate(known.sound)
            whole.seek(known.sound)
            whole.write(b"".join(lines[number - 1] + b"\n" for number in numbers))
            whole.flush()
            os.fsync(whole.fileno())
        share.unlink()


def _spread(
    work: Work,
    left: Sequence[str],
    path: Path,
    count: int,
    before: int,
    on_done: Callable[[int], None] | None,
) -> None:
    files = [path.with_name(f"{path.stem}.share{number}{path.suffix}") for number in range(count)]
    with divided(count) as pool:
        shares = [pool.submit(work, left[number::count], file) for number, file in enumerate(files)]
        _wait(shares, files, before, on_done)
    for share in shares:
        share.result()


def divided(processes: int) -> ProcessPoolExecutor:
    """Processes that divide the cores among them, for work that is submitted to them."""
    return ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(processes,),
    )


def _begin(processes: int) -> None:
    """In a new process, before it loads a model: its share of the cores, unless the user has said how many.

    It ends with the process that started it, however that ends: without anyone to hear of them, items would be
    measured that the next run measures again.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _wait(
    shares: Sequence[Future[None]],
    files: Sequence[Path],
    before: int,
    on_done: Callable[[int], None] | None,
) -> None:
    while not all(share.done() for share in shares):
        time.sleep(LOOK_SECONDS)
        if on_done is not None:
            on_done(before + sum(_lines(file) for file in files))


def _lines(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.read_bytes().count(b"\n")
    return 0
