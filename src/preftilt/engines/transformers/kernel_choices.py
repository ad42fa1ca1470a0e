"""Keeps which kernel was the fastest for layers of a shape, so that a machine measures a shape once.

A measurement of milliseconds differs from process to process, and kernels differ in the last digits of what they
compute: kept, every process computes alike. A file in the cache folder belongs to a processor, a version of torch and a
number of threads; removing it lets the next opening measure again. A folder that cannot be written does no harm: every
process then measures for itself.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Container, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

from preftilt.engines.models import cache_folder

FORMAT = 3
"""A new number measures every shape again."""


_CHOSEN: dict[int, dict[str, str]] = {}
"""What this process has measured, by number of threads."""


def read_choices(threads: int) -> dict[str, str]:
    """Names of kernels by the text of a shape; empty where nothing is kept or it cannot be read."""
    return {**_read(_file(threads)), **_CHOSEN.get(threads, {})}


def keep_choices(threads: int, choices: Mapping[str, str], certain: Container[str]) -> None:
    """Add ``choices`` to what is kept: for this process, and the ``certain`` ones for later ones, too."""
    _CHOSEN.setdefault(threads, {}).update(choices)
    file = _file(threads)
    partial = file.with_suffix(f".{os.getpid()}")
    kept = {shape: kernel for shape, kernel in choices.items() if shape in certain}
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(
            json.dumps({**_read(file), **kept}, indent=1, sort_keys=True), encoding="utf-8"
        )
        partial.replace(file)


def _read(file: Path) -> dict[str, str]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


@cache
def processor_field(name: str) -> str:
    """What Linux tells of the processor, e.g. ``model name`` or ``flags``; empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def _file(threads: int) -> Path:
    processor = [processor_field("model name") or platform.processor(), processor_field("flags")]
    key = json.dumps([FORMAT, platform.machine(), *processor, torch.__version__, threads])
    return cache_folder() / "kernels" / f"{sha256(key.encode()).hexdigest()[:16]}.json"
