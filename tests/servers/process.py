"""``preftilt serve`` as people start it: the installed command, as a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai

COMMAND = Path(sys.executable).with_name("preftilt")
READY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs; ``log`` takes what it says."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def client(self) -> openai.OpenAI:
        """The official client, which asks once and uses no proxy."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=300,
            http_client=httpx2.Client(trust_env=False, timeout=300),
        )


@contextmanager
def preftilt_serve(model: str, log: Path, *flags: str) -> Iterator[Served]:
    """Serve ``model`` until the block ends; it must then end by itself, cleanly, when it is asked to."""
    command = [str(COMMAND), "serve", "--model", model, "--port", "0", *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=out,
        )
    try:
        yield Served(_url(process, log), log, process)
        process.terminate()
        assert process.wait(60) in (0, -15), log.read_text()
    finally:
        process.kill()
        process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, once it says that it is ready."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        said = log.read_text()
        if '"ready"' in said:
            return next(json.loads(one)["url"] for one in said.splitlines() if '"opened"' in one)
        assert process.poll() is None, f"preftilt serve ended early:\n{said}"
        time.sleep(0.1)
    raise AssertionError(f"preftilt serve was not ready in time:\n{log.read_text()}")
