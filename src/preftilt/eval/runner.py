"""Items measured into a file of records, a line each, so that an interrupted run goes on; by one process or several.

Each process has a share of the items, with a file of its own that is folded into the one file.

A tiny model keeps one core busy and hardly a second one, so that processes help where threads do not. A process that
is killed leaves its file behind; the next run folds it in before it looks what is left to do.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from preftilt.records.journal import Journal, Survey, survey

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


def resumed(path: Path) -> Journal:
    """The file at ``path``, open for appending behind its sound records."""
    return Journal.resume(path, surveyed(path), again=set())


Task = Callable[[], Awaitable[Iterable[Mapping[str, Any]]]]
"""Measures something and gives its records."""


async def measure_into(
    journal: Journal,
    tasks: Iterable[Task],
    at_once: int,
    on_done: Callable[[], None] = lambda: None,
) -> None:
    """Do ``tasks``, ``at_once`` of them side by side, and write the records of each as soon as it ends.

    The first failure cancels the rest and is raised; what was measured stays. The journal is closed in the end.
    """
    room = asyncio.Semaphore(at_once)

    async def do(task: Task) -> None:
        async with room:
            records = await task()
        for record in records:
            journal.write(record)
        on_done()

    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(do(task))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        journal.close()


def in_shares(
    work: Work,
    ids: Sequence[str],
    path: Path,
    processes: int,
    on_done: Callable[[int], None] = lambda done: None,
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
    if count == 1:
        work(left, path)
    elif count > 1:
        names = [f"{path.stem}.share{number}{path.suffix}" for number in range(count)]
        files = [path.with_name(name) for name in names]
        with divided(count) as pool:
            shares = [pool.submit(work, left[i::count], file) for i, file in enumerate(files)]
            while not all(share.done() for share in shares):
                time.sleep(LOOK_SECONDS)
                there = [file for file in files if file.exists()]
                lines = sum(file.read_bytes().count(b"\n") for file in there)
                on_done(len(ids) - len(left) + lines)
        for share in shares:
            share.result()
        gather(path)
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
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
