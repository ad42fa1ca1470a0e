"""The processes that are measured: our server in front of an upstream, and peers that answer JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from tools.servers.launch import free_port

START_SECONDS = 300.0
STOP_SECONDS = 20.0


class SideFailed(RuntimeError):
    """A process that takes part in the measurement ended, or answered with an error."""


@contextmanager
def our_server(upstream: str, log: Path) -> Iterator[str]:
    """``preftilt serve`` in front of ``upstream`` (an engine's name), on a free port; yields its URL."""
    port = free_port()
    command = [sys.executable, "-c", "from preftilt.cli import main; main()", "serve"]
    command += ["--model", upstream, "--served-model-name", "demo", "--log-level", "warning"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, log)
        yield url
    finally:
        _stop(process)


class SideProcess:
    """A peer in another process: one JSON object a line to it, one back; ``name`` is for errors."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
            )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Its answer; raises :class:`SideFailed` if there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._line()

    def ready(self) -> dict[str, Any]:
        """Its first line, sent when it is ready."""
        return self._line()

    def close(self) -> None:
        """Stop it, and close the pipes to it."""
        with suppress(BrokenPipeError), self._process:
            _stop(self._process)

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # What a library prints is no answer.
            if line.startswith("{"):
                return json.loads(line)
        raise self._failure()

    def _failure(self) -> SideFailed:
        said = self._log.read_text(encoding="utf-8", errors="replace")[-1500:]
        return SideFailed(f"{self.name} ended; the end of {self._log}:\n{said}")


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            if httpx2.get(f"{url}/ready", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    said = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    raise SideFailed(f"preftilt serve does not answer; the end of {log}:\n{said}")


def _stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
