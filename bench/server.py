"""``python -m bench.server [--clients 200]``: many clients against one server on the toy engine.

The model costs next to nothing, so the times are those of the server. Prints errors, mixed-up answers, and the median
and 99th percentile of a request's seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import threading
import time
from dataclasses import dataclass

import httpx2
import numpy as np
import uvicorn

from preftilt.api import Realigner, Settings
from preftilt.messages import Message
from preftilt.search import BestOfN
from preftilt.server.app import create_app
from preftilt.server.resolve import ServerConfig
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference

QUESTION = "How do I study maths?"
SETTINGS = Settings(lam=5.0, search=BestOfN(n=4), max_tokens=24)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Results of ``clients`` concurrent requests: errors, mixed-up answers, latencies in s, requests a second."""

    clients: int
    errors: int
    mixed: int
    p50: float
    p99: float
    rate: float


async def answer_to(client: httpx2.AsyncClient, wish: str) -> tuple[str | None, float]:
    """A client's answer, None for an error, and its seconds."""
    body = {
        "model": "toy",
        "messages": [{"role": "user", "content": QUESTION}],
        "preftilt": {"preference": wish},
    }
    began = time.perf_counter()
    said = await client.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - began
    if said.status_code != 200:
        return None, seconds
    return said.json()["choices"][0]["message"]["content"], seconds


async def measure(url: str, clients: int) -> LoadResult:
    """Ask all at once, and compare every answer with that of the library without a server."""
    wishes = [f"wish number {i}" for i in range(clients)]
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(
        base_url=url, limits=limits, timeout=120, trust_env=False
    ) as client:
        began = time.perf_counter()
        got = await asyncio.gather(*(answer_to(client, wish) for wish in wishes))
        total = time.perf_counter() - began
    realigner = Realigner(ToyEngine(), SETTINGS)
    messages = [Message("user", QUESTION)]
    want = [(await realigner.realign(messages, [Preference(wish)])).text for wish in wishes]
    errors = sum(text is None for text, _ in got)
    mixed = sum(text not in (None, right) for (text, _), right in zip(got, want, strict=True))
    p50, p99 = np.percentile([seconds for _, seconds in got], [50, 99])
    return LoadResult(clients, errors, mixed, float(p50), float(p99), clients / total)


def crowd(clients: int) -> LoadResult:
    """Start the server, ask it, stop it."""
    app = create_app(ToyEngine(), ServerConfig(model="toy", settings=SETTINGS, seeded=True))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, ws="none", backlog=clients + 1)
    )
    with socket.create_server(("127.0.0.1", 0), backlog=clients + 1) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            return asyncio.run(measure(f"http://127.0.0.1:{listener.getsockname()[1]}", clients))
        finally:
            server.should_exit = True
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.server", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    result = crowd(parser.parse_args().clients)
    print(
        f"{result.clients} clients at once: {result.errors} errors, {result.mixed} mixed-up answers"
    )
    print(f"p50 {result.p50:.2f} s, p99 {result.p99:.2f} s, {result.rate:.0f} requests/s")


if __name__ == "__main__":
    main()
