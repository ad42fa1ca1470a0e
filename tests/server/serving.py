"""A real server on a real port, over the toy engine or one that misbehaves on purpose (``odd.py``)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn

from preftilt.api import Settings
from preftilt.engines.base import Engine
from preftilt.rivals import Judges
from preftilt.search import BestOfN
from preftilt.server.app import create_app
from preftilt.server.middleware import AccessPolicy
from preftilt.server.resolve import ServerConfig
from preftilt.testing.toy import ToyEngine

QUESTION = [{"role": "user", "content": "How do I study maths?"}]
WISH = {"preference": "No games."}


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs; ``client`` is the official one, ``http`` a plain one."""

    url: str
    server: uvicorn.Server
    key: str | None

    @property
    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False)

    def client(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or self.key or "none",
            max_retries=0,
            timeout=60,
            http_client=httpx2.Client(trust_env=False, timeout=60),
        )

    def metric(self, name: str) -> float:
        """The value of a counter, by its whole name."""
        with self.http as http:
            lines = http.get("/metrics").text.splitlines()
        [value] = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == name]
        return float(value)


def server_config(**changes: Any) -> ServerConfig:
    """Small and repeatable, unless a test says otherwise."""
    settings = Settings(lam=5.0, search=BestOfN(n=4), max_tokens=24)
    return ServerConfig(**({"model": "toy", "settings": settings, "seeded": True} | changes))


@contextmanager
def serving(
    engine: Engine | None = None,
    *,
    key: str | None = None,
    page: Path = Path("nowhere"),
    judges: Judges | None = None,
    **changes: Any,
) -> Iterator[Running]:
    """A server on a free port of this machine, stopped in the end."""
    app = create_app(
        engine or ToyEngine(), server_config(**changes), AccessPolicy(key=key), page, judges=judges
    )
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", server, key)
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()


def ask(running: Running, **changes: Any) -> httpx2.Response:
    """POST a chat request that has a preference, with ``changes``; None takes a field out."""
    body: dict[str, Any] = {"model": "toy", "messages": QUESTION, "preftilt": WISH} | changes
    with running.http as http:
        return http.post(
            "/v1/chat/completions",
            json={name: value for name, value in body.items() if value is not None},
        )
