"""Whose request works next: clients take turns, in the queue and through the whole server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import httpx2
import pytest

from preftilt.server.admission_queue import AdmissionQueue
from preftilt.server.app import create_app
from preftilt.server.failures import ApiError
from tests.server.odd import Odd
from tests.server.serving import QUESTION, server_config


async def settle() -> None:
    """Let every task come to where it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def order_of(
    clients: Sequence[str], *, running: int = 1, waiting: int = 100
) -> tuple[list[str], list[str]]:
    """Requests in the order in which they worked, and those refused; "A2" is client A's third. One ends at a time."""
    queue = AdmissionQueue(running, waiting)
    names = [f"{client}{clients[:place].count(client)}" for place, client in enumerate(clients)]
    worked: list[str] = []
    refused: list[str] = []
    ends = {name: asyncio.Event() for name in names}

    async def request(name: str) -> None:
        try:
            with queue.admit(name[0]) as turn:
                await turn.come()
                worked.append(name)
                await ends[name].wait()
        except ApiError as error:
            refused.append(f"{name}: {error.status}")

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(request(name))
            await settle()
        for ended in range(len(names)):
            if ended < len(worked):
                ends[worked[ended]].set()
                await settle()
    assert queue == AdmissionQueue(running, waiting, _begun=len(worked))
    return worked, refused


async def test_one_request_of_another_client_is_second_not_ninth() -> None:
    worked, _ = await order_of("AAAAAAAAB")
    assert worked == ["A0", "B0", *(f"A{i}" for i in range(1, 8))]


async def test_clients_take_turns_and_a_client_keeps_its_order() -> None:
    worked, _ = await order_of("AAABBBCC")
    assert worked == ["A0", "B0", "C0", "A1", "B1", "C1", "A2", "B2"]


async def test_who_has_fewest_requests_at_work_gets_the_places_that_become_free() -> None:
    worked, _ = await order_of("AAAAAAABBBB", running=4)
    assert worked[4:9] == ["B0", "B1", "A4", "A5", "B2"]


async def test_requests_of_one_client_work_first_come_first_served() -> None:
    worked, refused = await order_of("AAAAAA", running=2, waiting=3)
    assert (worked, refused) == ([f"A{i}" for i in range(5)], ["A5: 429"])


async def test_a_full_queue_of_one_client_makes_room_for_others_up_to_an_equal_share() -> None:
    worked, refused = await order_of("AAAAABBBB", running=1, waiting=4)
    assert refused == ["A4: 429", "A3: 429", "B2: 429", "B3: 429"]
    assert worked == ["A0", "B0", "A1", "B1", "A2"]


async def test_a_request_that_leaves_while_it_waits_holds_nobody_up() -> None:
    queue = AdmissionQueue(running=1, waiting=8)
    worked: list[str] = []

    async def request(client: str) -> None:
        with queue.admit(client) as turn:
            await turn.come()
            worked.append(client)

    with queue.admit("first"):
        tasks = [asyncio.create_task(request(client)) for client in ("gone", "gone", "stays")]
        await settle()
        tasks[0].cancel()
        await settle()
        tasks[1].cancel()  # It is given the place in the moment in which it leaves.
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
    assert worked == ["stays"]
    assert queue == AdmissionQueue(running=1, waiting=8, _begun=3)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_server_tells_clients_apart_by_their_addresses(stream: bool) -> None:
    engine = Odd()
    queue = AdmissionQueue(running=1, waiting=9)
    app = create_app(engine, server_config(), queue=queue)

    async def ask(address: str, seed: int) -> int:
        body = {"model": "toy", "messages": QUESTION, "seed": seed, "stream": stream}
        transport = httpx2.ASGITransport(app, client=(address, 50_000 + seed))
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            return (await client.post("/v1/chat/completions", json=body)).status_code

    with queue.admit("10.0.0.3"):
        tasks = []
        for seed in range(9):
            address = "10.0.0.2" if seed == 8 else "10.0.0.1"
            tasks.append(asyncio.create_task(ask(address, seed)))
            while queue.admitted < 2 + seed:
                await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [200] * 9
    assert [request.stream.seed for request in engine.requests] == [0, 8, *range(1, 8)]
