"""How soon ``preftilt run`` writes, how much, and what memory it takes by the number of rows.

``python -m bench.long_files bundled|toy ROWS.jsonl OUT.jsonl FLAG …`` is ``preftilt run`` in a process of its own; it
tells on standard output when its model was open, and its peak memory in the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from preftilt.cli import configure, main
from preftilt.engines.base import Engine
from preftilt.engines.options import EngineOptions
from preftilt.testing.toy import ToyEngine

MIB = 1 << 20


def write_rows(folder: Path, count: int) -> Path:
    """A file of short questions with a preference."""
    path = folder / f"{count}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = {"id": f"row-{i}", "question": f"Question {i}?", "preference": "No games."}
            file.write(json.dumps(row) + "\n")
    return path


def first_records(rows: Path, records: int, flags: Sequence[str]) -> tuple[float, list[int]]:
    """Seconds from the open model to the first record, and bytes of the first ``records`` ones; then it is ended."""
    out = rows.with_suffix(".first.jsonl")
    first, lines = 0.0, list[bytes]()
    with _running("bundled", rows, out, flags) as process:
        opened = _said(process)["opened"]
        while len(lines) < records and process.poll() is None:
            time.sleep(0.005)
            lines = out.read_bytes().splitlines(keepends=True) if out.exists() else []
            if lines and not first:
                first = time.time() - opened
        process.terminate()
    return first, [len(line) for line in lines[:records]]


def peak_memory(rows: Path, flags: Sequence[str]) -> float:
    """Peak memory of all rows on the toy model, in MiB."""
    out = rows.with_suffix(".peak.jsonl")
    with _running("toy", rows, out, flags) as process:
        _said(process)
        return _said(process)["peak"] / MIB


def _running(
    model: Literal["bundled", "toy"], rows: Path, out: Path, flags: Sequence[str]
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.long_files", model, str(rows), str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _said(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _run(model: str, rows: str, out: str, *flags: str) -> None:
    opening = configure.open_engine

    def opened(name: str, options: EngineOptions) -> Engine:
        engine = ToyEngine() if model == "toy" else opening(name, options)
        print(json.dumps({"opened": time.time()}), flush=True)
        return engine

    configure.open_engine = opened
    with suppress(SystemExit):
        main(["run", rows, "-o", out, "--model", "demo", "--force", *flags])
    print(json.dumps({"peak": _peak_bytes()}), flush=True)


def _peak_bytes() -> int:
    """The most memory that this process has held; ``getrusage`` would count what its parent held before."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kib) * 1024


if __name__ == "__main__":
    _run(*sys.argv[1:])
