"""What is refused before a cluster is joined, and how many actors a cluster has room for."""

from __future__ import annotations

import pickle
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from preftilt.cluster import ActorPool, ActorRequest, ClusterJob, Node, connect, plan_pool
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput
from tests.cli.conftest import Cli, Opener, cli, opener, real_cli, row, rows

__all__ = ["cli", "opener", "real_cli", "rows"]

Write = Callable[..., Path]


@pytest.fixture
def silent() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ray://head:10001", "run preftilt on one of its nodes with --ray auto"),
        ("head", "is not local, auto or HOST:PORT"),
        ("head:port", "is not local, auto or HOST:PORT"),
        (":6379", "is not local, auto or HOST:PORT"),
        ("head:99999", "is not local, auto or HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_refused(
    given: str, message: str, cli: Cli, rows: Write, tmp_path: Path
) -> None:
    said = cli("run", rows(row("a")), "-o", tmp_path / "out.jsonl", "--ray", given)
    assert said.code == 2
    assert message in said.err


def test_an_address_where_nothing_answers_is_refused_before_anything_is_spent(
    silent: str, cli: Cli, rows: Write, opener: Opener, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    said = cli("run", rows(row("a")), "-o", out, "--ray", silent)
    assert (said.code, opener.asked, out.exists()) == (2, [], False)
    assert f"--ray {silent}: nothing answers there (Connection refused)" in said.err
    assert "ray" not in sys.modules


def test_a_missing_ray_names_its_extra(
    cli: Cli, rows: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def find_spec(name: str) -> None:
        """As where Ray is not installed."""

    monkeypatch.setattr(connect, "find_spec", find_spec)
    said = cli("run", rows(row("a")), "-o", tmp_path / "out.jsonl", "--ray", "local")
    assert said.code == 2
    assert 'pip install "preftilt[ray]"' in said.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ray-actors", 2), "--ray-actors does nothing without --ray"),
        (("--ray-batch", 2), "--ray-batch does nothing without --ray"),
        (("--ray", "local", "--ray-cpus-per-actor", 0), "--ray-cpus-per-actor is 0"),
        (("--ray", "local", "--ray-gpus-per-actor", 1.5), "above 1 give whole GPUs"),
    ],
)
def test_flags_that_do_nothing_or_make_no_sense_are_refused(
    flags: tuple[object, ...], message: str, cli: Cli, rows: Write, tmp_path: Path
) -> None:
    said = cli("run", rows(row("a")), "-o", tmp_path / "out.jsonl", *flags)
    assert said.code == 2
    assert message in said.err


LAPTOP = [Node(cpus=8)]
TWO = [Node(cpus=16), Node(cpus=8)]
GPUS = [Node(cpus=16, gpus=2), Node(cpus=64, gpus=8), Node(cpus=0)]


@pytest.mark.parametrize(
    ("nodes", "asked", "holds_model", "pool"),
    [
        (LAPTOP, ActorRequest(), True, ActorPool(actors=1, cpus=8, gpus=0)),
        (LAPTOP, ActorRequest(actors=3), True, ActorPool(actors=3, cpus=2, gpus=0)),
        (LAPTOP, ActorRequest(), False, ActorPool(actors=1, cpus=1, gpus=0)),
        (TWO, ActorRequest(), True, ActorPool(actors=2, cpus=8, gpus=0)),
        (TWO, ActorRequest(actors=4), True, ActorPool(actors=4, cpus=4, gpus=0)),
        (TWO, ActorRequest(cpus=4, actors=6), True, ActorPool(actors=6, cpus=4, gpus=0)),
        (GPUS, ActorRequest(), True, ActorPool(actors=10, cpus=1, gpus=1)),
        (GPUS, ActorRequest(), False, ActorPool(actors=2, cpus=1, gpus=0)),
        (GPUS, ActorRequest(gpus=4), True, ActorPool(actors=2, cpus=1, gpus=4)),
        (GPUS, ActorRequest(gpus=0.4, cpus=4), True, ActorPool(actors=20, cpus=4, gpus=0.4)),
        (GPUS, ActorRequest(gpus=0, cpus=16), True, ActorPool(actors=2, cpus=16, gpus=0)),
    ],
)
def test_the_pool_is_what_the_nodes_have_room_for(
    nodes: list[Node], asked: ActorRequest, holds_model: bool, pool: ActorPool
) -> None:
    assert plan_pool(nodes, asked, holds_model=holds_model) == pool


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        (
            LAPTOP,
            ActorRequest(actors=9),
            "room for 8 actors with 1 CPUs and 0 GPUs each, not for 9",
        ),
        (LAPTOP, ActorRequest(gpus=1), "room for 0 actors with 1 CPUs and 1 GPUs each, not for 1"),
        (GPUS, ActorRequest(actors=11), "room for 10 actors"),
        ([Node(cpus=0)], ActorRequest(), "no node with CPUs"),
    ],
)
def test_more_than_there_is_room_for_is_refused(
    nodes: list[Node], asked: ActorRequest, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        plan_pool(nodes, asked, holds_model=True)


def test_a_job_travels_whole_and_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-hidden")
    options = EngineOptions(api_key_env="MY_KEY", template_kwargs={"a": 1}, timeout=5)
    job = ClusterJob(
        model="vllm+http://host:1",
        options=options,
        identity={"command": "run"},
        moment=datetime(2026, 1, 2, tzinfo=UTC),
    )
    packed = pickle.dumps(job)
    assert pickle.loads(packed) == job
    assert b"sk-hidden" not in packed
    assert not job.holds_model
