"""Peak memory of a stretch of work: resident memory of the process, or what torch holds on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 1 << 20
EVERY_SECONDS = 0.02


@dataclass(slots=True)
class Peak:
    """The most memory held so far, in MiB above what was held at the beginning."""

    mib: float = 0.0


@contextmanager
def measuring(device: torch.device) -> Iterator[Peak]:
    """Watch memory inside the block."""
    watch = _watch_gpu if device.type == "cuda" else _watch_process
    with watch() as peak:
        yield peak


@contextmanager
def _watch_gpu() -> Iterator[Peak]:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    peak = Peak()
    try:
        yield peak
    finally:
        peak.mib = (torch.cuda.max_memory_allocated() - before) / MIB


@contextmanager
def _watch_process() -> Iterator[Peak]:
    """Sampled by a thread: Linux has a high-water mark, but no way to lower it that containers allow."""
    before = _resident()
    peak = Peak()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_SECONDS):
            peak.mib = max(peak.mib, (_resident() - before) / MIB)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
