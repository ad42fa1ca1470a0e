"""Starting a server, waiting until it answers, and stopping it by its process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

STAND_IN = Path(__file__).parent / "stand_in"
TORCHVISION = Path(sys.prefix) / "sglang-only"
"""Where ``make test-servers`` puts what SGLang imports and vLLM must not see: a torchvision for CUDA."""

READY_SECONDS = 600.0
"""A server is up in half a minute on an idle machine; a busy one is given time."""

STOP_SECONDS = 20.0
LOG_LINES = 40

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class ServerFailed(RuntimeError):
    """A server ended, or did not answer in time; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a server is started: ``command`` without address and model, and ``environment`` besides ours."""

    command: tuple[str, ...]
    model_flag: str
    environment: dict[str, str]


RECIPES = {
    "vllm": Recipe(
        command=(
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--dtype", "float32", "--enforce-eager", "--block-size", "32"),
            *("--served-model-name", "demo", "--max-num-seqs", "64"),
            *("--enable-scale-out", "--enable-prompt-tokens-details"),
        ),
        model_flag="--model",
        environment={
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # Every core, unless others work on some of them: its threads wait for one another at every layer.
            "VLLM_CPU_OMP_THREADS_BIND": os.environ.get(
                "VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}"
            ),
            "VLLM_NO_USAGE_STATS": "1",
        },
    ),
    "sglang": Recipe(
        command=(
            *("-m", "sglang.launch_server", "--device", "cpu", "--dtype", "float32"),
            *("--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
            *("--disable-overlap-schedule", "--max-total-tokens", "40000"),
            # Without the last, its scheduler asks itself without a pause whether there is work.
            *("--served-model-name", "demo", "--sleep-on-idle"),
        ),
        model_flag="--model-path",
        environment={
            "SGLANG_USE_CPU_ENGINE": "1",
            "PYTHONPATH": os.pathsep.join([str(STAND_IN), str(TORCHVISION)]),
        },
    ),
    "vllm-router": Recipe(
        command=("-m", "vllm_router.launch_router"),
        model_flag="--worker-urls",
        environment={},
    ),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. ``url`` has no path; ``log`` takes all it says."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it and the processes it started; ask first."""
        for how, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
            try:
                os.killpg(self.process.pid, how)
                self.process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait(STOP_SECONDS)


def start(
    kind: str,
    model: str,
    log: Path,
    *,
    flags: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    port: int | None = None,
) -> Server:
    """Start a server of ``kind`` (a key of :data:`RECIPES`) on this machine and wait until it answers.

    flags, environment: more of both. port: a free one if None. Raises :class:`ServerFailed`.
    """
    recipe = RECIPES[kind]
    port = port or free_port()
    command = [sys.executable, *recipe.command, recipe.model_flag, model]
    command += ["--host", "127.0.0.1", "--port", str(port), *flags]
    return launch(
        kind, command, port, log, {**ENVIRONMENT, **recipe.environment, **(environment or {})}
    )


def launch(
    name: str, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
) -> Server:
    """Start a command that listens on ``port`` of this machine, and wait until its ``/health`` answers.

    environment: besides ours. Raises :class:`ServerFailed`.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # A process group of its own, so that its helpers end with it and Ctrl-C reaches it through us.
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait(name, server)
    except BaseException:
        server.stop()
        raise
    return server


def start_router(urls: Sequence[str], log: Path, policy: str = "cache_aware") -> Server:
    """Start vllm-router before running vLLM servers; by default a prompt goes to the one that has most of it cached."""
    flags = ("--worker-urls", *urls, "--policy", policy, "--prometheus-port", str(free_port()))
    return start("vllm-router", urls[0], log, flags=flags)


def free_port() -> int:
    """A port that nobody listens on; the system gives it to nobody else for a while."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait(kind: str, server: Server) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if (code := server.process.poll()) is not None:
            raise ServerFailed(f"{kind} ended with exit code {code}; {_end_of(server.log)}")
        if _healthy(server.url):
            return
        time.sleep(0.2)
    raise ServerFailed(f"{kind} did not answer within {READY_SECONDS:.0f} s; {_end_of(server.log)}")


def _healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (URLError, OSError):
        return False


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join([f"the end of {log}:", *lines])
