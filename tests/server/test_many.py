"""Many clients, clients that leave, full queues, and the end of the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from preftilt.api import Realigner, run_sync
from preftilt.messages import Message
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference
from tests.server.odd import Odd
from tests.server.serving import QUESTION, WISH, Running, ask, server_config, serving

CLIENTS = 50


def until(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_the_answers_of_many_clients_are_not_mixed_up() -> None:
    wishes = [f"wish number {i}" for i in range(CLIENTS)]

    def one(server: Running, wish: str) -> str:
        said = ask(server, preftilt={"preference": wish}).json()
        return said["choices"][0]["message"]["content"]

    with (
        serving(Odd(pause=0.005), max_concurrency=8) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        got = list(pool.map(lambda wish: one(server, wish), wishes))
    realigner = Realigner(ToyEngine(), server_config().settings)
    asked = [Message("user", QUESTION[0]["content"])]
    want = [run_sync(realigner.realign(asked, [Preference(wish)])).text for wish in wishes]
    assert got == want
    assert len(set(want)) > CLIENTS // 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_work_with_it(stream: bool) -> None:
    engine = Odd(pause=30)
    with serving(engine) as server:
        body = json.dumps(
            {"model": "toy", "messages": QUESTION, "preftilt": WISH, "stream": stream}
        ).encode()
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            until(lambda: engine.requests)
        until(lambda: engine.cancelled == len(engine.requests))
        until(lambda: server.metric("preftilt_disconnects_total") == 1)
        assert server.metric("preftilt_admitted") == 0


def test_a_full_queue_is_told_at_once_and_empties_again() -> None:
    engine = Odd()
    engine.may_go_on.clear()
    with serving(engine, max_concurrency=1, max_queue=1) as server:
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(ask, server) for _ in range(2)]
            until(lambda: server.metric("preftilt_admitted") == 2)
            for stream in (False, True):
                said = ask(server, stream=stream)
                assert said.status_code == 429
                assert said.headers["retry-after"] == "1"
                assert said.json()["error"]["code"] == "overloaded"
            with server.http as http:
                assert http.get("/ready").status_code == 503
            engine.may_go_on.set()
            assert [one.result().status_code for one in waiting] == [200, 200]
        assert ask(server).status_code == 200
        with server.http as http:
            assert http.get("/ready").json() == {"status": "ready"}


def test_a_server_that_stops_finishes_what_it_began() -> None:
    engine = Odd(pause=0.3)
    with serving(engine) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server)
        until(lambda: engine.requests)
        server.server.should_exit = True
        assert answer.result().status_code == 200
    assert engine.closed


@contextmanager
def process(*flags: str, pause: float = 0.0) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """``preftilt serve`` on the toy engine, as a process of its own, and the lines of its log."""
    started = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.server.toy_main",
            "serve",
            "--model",
            "demo",
            "--port",
            "0",
            *flags,
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TOY_PAUSE": str(pause), "KEY": "abc"},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    errors = started.stderr
    assert errors is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(errors.readline, "")))
    reader.start()
    try:
        yield started, lines
    finally:
        started.kill()
        started.wait()
        reader.join()
        errors.close()


def url(lines: list[str]) -> str:
    until(lambda: any('"ready"' in line for line in lines), 120)
    return next(json.loads(line)["url"] for line in lines if '"opened"' in line)


def test_a_terminated_process_finishes_its_requests_and_leaves() -> None:
    with process("--grace", "10", pause=1.0) as (started, lines):
        base = url(lines)
        body = {"model": "demo", "messages": QUESTION, "preftilt": WISH}
        with ThreadPoolExecutor(1) as pool:
            post = lambda: httpx2.post(f"{base}/v1/chat/completions", json=body, timeout=60)  # noqa: E731
            answer = pool.submit(post)
            until(lambda: "preftilt_admitted 1" in httpx2.get(f"{base}/metrics").text)
            started.send_signal(signal.SIGTERM)
            assert answer.result().status_code == 200
        assert started.wait(60) in (0, -signal.SIGTERM)
    assert any('"stopped"' in line for line in lines)


def test_a_stopping_process_is_not_ready_takes_nothing_new_and_ends_at_a_second_signal() -> None:
    with process("--grace", "600", pause=600.0) as (started, lines):
        base = url(lines)
        assert httpx2.get(f"{base}/ready").json() == {"status": "ready"}
        body = {"model": "demo", "messages": QUESTION, "preftilt": WISH, "stream": True}
        with httpx2.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=60) as reply:
            assert reply.status_code == 200
            started.send_signal(signal.SIGTERM)
            until(lambda: httpx2.get(f"{base}/ready").json() == {"status": "stopping"})
            assert httpx2.get(f"{base}/ready").status_code == 503
            assert httpx2.get(f"{base}/health").status_code == 200
            for stream in (False, True):
                refused = httpx2.post(
                    f"{base}/v1/chat/completions", json=body | {"stream": stream}, timeout=60
                )
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["error"]["code"] == "stopping"
            started.send_signal(signal.SIGTERM)
            assert started.wait(60) in (0, -signal.SIGTERM)


def test_a_terminated_process_cancels_what_takes_too_long() -> None:
    with process("--grace", "1", pause=60.0) as (started, lines):
        base = url(lines)
        body = {"model": "demo", "messages": QUESTION, "preftilt": WISH, "stream": True}
        with httpx2.stream("POST", f"{base}/v1/chat/completions", json=body, timeout=60) as reply:
            assert reply.status_code == 200
            started.send_signal(signal.SIGTERM)
            assert started.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--host", "0.0.0.0"), "--without-key"),
        (("--client-key-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE"),
        (("--preset", "bon-3={}"), "cannot name a preset"),
        (("--preset", 'a={"lamda": 1}'), "lamda"),
        (("--preference-from", "user"), "none or system"),
        (("--n", "0"), "--n"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_opened(
    flags: tuple[str, ...], words: str
) -> None:
    with process(*flags) as (started, lines):
        assert started.wait(120) == 2
    assert len(lines) == 1
    assert words in lines[0]


def test_a_port_that_is_taken_is_an_error_in_a_line() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        process("--port", str(taken.getsockname()[1])) as (started, lines),
    ):
        assert started.wait(120) == 1
    assert "in use" in lines[0]
