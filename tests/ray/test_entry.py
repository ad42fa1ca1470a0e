"""A cluster that cannot be joined is refused at once, with what to do; Ray alone would try again for minutes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.conftest import PATIENCE, Place, Toy

OTHER = "0123456789abcdef" * 4


@pytest.fixture
def mute() -> Iterator[str]:
    """An address of this machine where somebody listens who never says a word."""
    with socket.create_server(("", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def told(place: Place, code: str, address: str) -> str:
    """What a process says that runs ``code`` with the cluster's token; it must fail."""
    process = place.start("-c", code, address)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    return said


@pytest.mark.parametrize(
    ("token", "message"),
    [(OTHER, "the cluster does not take the token that was shown"), ("", "asks for a token")],
    ids=["another", "none"],
)
def test_a_cluster_that_wants_another_token_is_refused_before_anything_is_spent(
    token: str, message: str, toy: Toy, address: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    code, said = toy.finish(toy.many(2), out, "--ray", address, token=token)
    assert (code, out.exists(), toy.drawn()) == (2, False, []), said
    assert f"preftilt: error: --ray {address}: the cluster" in said
    assert message in said
    assert "put the one of its nodes into RAY_AUTH_TOKEN" in said
    assert OTHER not in said


def test_an_address_that_is_not_a_cluster_s_is_refused_when_the_time_is_up(
    place: Place, mute: str
) -> None:
    code = (
        "import sys; from preftilt.cluster.connect import check_entry; check_entry(sys.argv[1], 1)"
    )
    said = told(place, code, mute)
    assert f"BadInput: --ray {mute}: no Ray cluster answered within 1 s; give the address" in said


def test_a_machine_that_is_no_node_of_the_cluster_is_told_to_become_one(
    place: Place, address: str
) -> None:
    """There is one machine here: that Ray finds none of its own processes stands in for another one."""
    code = (
        "import os, sys; os.environ['RAY_AUTH_MODE'] = 'token'\n"
        "from ray._private import services; services.find_node_ids = lambda: []\n"
        "from preftilt.cluster import connect; connect.NODE_SECONDS = 1\n"
        "connect.check_entry(sys.argv[1])"
    )
    said = told(place, code, address)
    assert f"BadInput: --ray {address}: the cluster answers, but this machine is none of" in said
    assert f"ray start --address={address}" in said
