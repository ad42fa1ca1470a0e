"""A real Ray cluster for all tests here, and ``preftilt`` as a process that joins it, on a toy engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.cli.conftest import row

ROOT = Path(__file__).parents[2]
PLUGIN = {
    "METADATA": "Metadata-Version: 2.1\nName: preftilt-toy\nVersion: 1\n",
    "entry_points.txt": "[preftilt.engines]\ntoy = tests.ray.toy_engine:open_toy\n",
}
FEW = ("--max-tokens", "12", "--n", "3")
PATIENCE = 240.0
"""Seconds for one run: a busy machine takes a while to start Ray's processes."""

ATTEMPTS = 4
"""Ray gives its processes half a minute to start, which is short on a machine that is busy."""


@dataclass(slots=True)
class Place:
    """The environment that a cluster and its drivers share; all that Ray writes lies in ``folder``."""

    folder: Path
    environment: dict[str, str] = field(repr=False)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, token: str | None = None) -> subprocess.Popen[str]:
        """Python with ``command``, in the project's folder; with another token than the cluster's, or none if empty."""
        environment = self.environment
        if token is not None:
            environment = environment | {"RAY_AUTH_TOKEN": token}
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def close(self) -> None:
        """End whatever still runs: a cluster ends when its input does."""
        for process in self.running:
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    # Ray's sockets lie in it, and the system allows their paths about a hundred characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    info = folder / "plugin" / "preftilt_toy-1.dist-info"
    info.mkdir(parents=True)
    for name, text in PLUGIN.items():
        (info / name).write_text(text, encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    place = Place(
        folder,
        own
        | {
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{info.parent}:{ROOT}",
            "RAY_AUTH_TOKEN": token_hex(32),
            "RAY_TMPDIR": str(folder),
            "RAY_gcs_server_port_wait_time_s": "120",
            "RAY_worker_register_timeout_seconds": "300",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )
    yield place
    place.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def address(place: Place) -> str:
    """A cluster with room for two actors."""
    said = ""
    for _ in range(ATTEMPTS):
        cluster = place.start("-m", "tests.ray.cluster")
        assert cluster.stdout is not None
        if found := cluster.stdout.readline().strip():
            return found
        said = cluster.communicate()[1]
    pytest.fail(f"Ray does not start here: {said}")


@dataclass(frozen=True, slots=True)
class Toy:
    """Runs of ``preftilt run`` on the toy engine: here, on a cluster, and what they drew."""

    place: Place
    folder: Path

    def behave(self, **control: Any) -> None:
        """How the engines that are opened from now on behave."""
        told = control | {"log": str(self.folder / "log")}
        (self.folder / "control.json").write_text(json.dumps(told), encoding="utf-8")

    def rows(self, *lines: dict[str, Any]) -> Path:
        path = self.folder / "in.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
        return path

    def many(self, count: int) -> Path:
        return self.rows(*(row(f"r{number}") for number in range(count)))

    def start(
        self, source: Path, out: Path, *flags: object, token: str | None = None
    ) -> subprocess.Popen[str]:
        call = ("run", source, "-o", out, "-m", f"toy:{self.folder / 'control.json'}", *FEW, *flags)
        code = "import sys; from preftilt.cli import main; main(sys.argv[1:])"
        return self.place.start("-c", code, *map(str, call), token=token)

    def finish(
        self, source: Path, out: Path, *flags: object, token: str | None = None
    ) -> tuple[int, str]:
        """Exit code and what was said."""
        process = self.start(source, out, *flags, token=token)
        _, said = process.communicate(timeout=PATIENCE)
        return process.returncode, said

    def drawn(self) -> list[tuple[int, str]]:
        """Process and row of every draw so far, in order."""
        log = self.folder / "log"
        lines = log.read_text("utf-8").splitlines() if log.exists() else []
        return [(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in lines]


@pytest.fixture
def toy(place: Place, tmp_path: Path) -> Toy:
    toy = Toy(place, tmp_path)
    toy.behave()
    return toy


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait while ``process`` runs; it must not end before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
