"""The server in front of several engines: what clients, load balancers and Prometheus see when some of them die."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from preftilt.engines.replicas import open_replicas
from tests.replicas.conftest import QUICK
from tests.replicas.machines import Machine
from tests.server.serving import Running, ask, serving


@pytest.fixture
def machines() -> list[Machine]:
    return [Machine(f"m{i}") for i in range(3)]


@pytest.fixture
def server(machines: list[Machine]) -> Iterator[Running]:
    with serving(open_replicas({one.name: one.open for one in machines}, QUICK)) as running:
        yield running


def test_no_request_is_lost_when_a_replica_dies(machines: list[Machine], server: Running):
    wishes = [f"wish number {i}" for i in range(8)]

    def answers() -> list[str]:
        with ThreadPoolExecutor(len(wishes)) as pool:
            said = list(pool.map(lambda one: ask(server, preftilt={"preference": one}), wishes))
        assert [one.status_code for one in said] == [200] * len(wishes)
        return [one.json()["choices"][0]["message"]["content"] for one in said]

    before = answers()
    for one in machines:
        one.prompts.clear()
        one.pause = 0.1
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(answers)
        _until(lambda: machines[1].prompts)
        machines[1].on = False
        assert under_way.result() == before
    _until(lambda: server.metric('preftilt_replica_up{replica="m1"}') == 0)
    assert server.metric('preftilt_replica_up{replica="m0"}') == 1
    assert server.metric('preftilt_replica_failed_total{replica="m1"}') >= 1
    assert server.metric('preftilt_replica_calls_total{replica="m0"}') >= 1
    assert server.metric('preftilt_replica_load{replica="m0"}') == 0


def test_without_any_replica_it_is_not_ready_and_says_why(machines: list[Machine], server: Running):
    for one in machines:
        one.on = False
    with server.http as http:
        _until(lambda: http.get("/ready").json() == {"status": "no replica answers"})
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200
    said = ask(server)
    assert said.status_code == 502
    assert "none of the 3 replicas answers: m0 cannot be reached" in said.json()["error"]["message"]
    machines[0].on = True
    with server.http as http:
        _until(lambda: http.get("/ready").status_code == 200)
    assert ask(server).status_code == 200


def _until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
