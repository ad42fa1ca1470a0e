"""Peak memory of a stretch of work: resident memory of the process, or what torch holds on a GPU."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

MIB = 1 << 20
RESET_HIGH_WATER_MARK = "5"
"""What Linux wants to read in ``/proc/self/clear_refs`` to begin its high-water mark anew (man 5 proc)."""


@dataclass(slots=True)
class Peak:
    """The most memory held inside the block, in MiB above what was held at its beginning: the loaded models.

    None where the system does not tell.
    """

    mib: float | None = None


@contextmanager
def measuring(device: torch.device) -> Iterator[Peak]:
    """Watch memory inside the block; what earlier work has freed is given back to the system first."""
    gc.collect()
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
    """Without the trim a second run would find its memory in the allocator's hands and seem to need none."""
    peak = Peak()
    if sys.platform != "linux":
        yield peak
        return
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text(RESET_HIGH_WATER_MARK)
    except OSError:
        yield peak
        return
    try:
        yield peak
    finally:
        peak.mib = (_resident("VmHWM") - before) / MIB


def _resident(field: str) -> int:
    """A field of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(kib) * 1024
