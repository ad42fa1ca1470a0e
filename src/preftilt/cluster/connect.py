"""Connecting to a Ray cluster, or starting one on this machine; Ray is imported only when it is used.

It also plans the number and size of actors, from what the user asked for and the resources of the nodes.

Whether a cluster can be reached and accepts us is checked within seconds, where Ray itself retries for minutes, by the
calls that Ray makes when it joins a cluster, by its own client, which has no public interface.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from threading import Thread

from preftilt.errors import BadInput, MissingPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The resources of a node, as Ray counts them."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorRequest:
    """The actors that the user asks for; None leaves it to :func:`plan_pool`."""

    actors: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("cpus", self.cpus, 0.01), ("gpus", self.gpus, 0.0)):
            if value is not None and not least <= value < float("inf"):
                raise BadInput(f"--ray-{name}-per-actor is {value:g}; give {least:g} or more")
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise BadInput(f"--ray-gpus-per-actor is {self.gpus:g}; above 1 give whole GPUs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPool:
    """A number of actors with the same resources."""

    actors: int
    cpus: float
    gpus: float


def plan_pool(nodes: Sequence[Node], wanted: ActorRequest, *, holds_model: bool) -> ActorPool:
    """The pool of actors that fits on ``nodes``.

    holds_model: an actor runs the model itself, rather than calling a server. It then gets a GPU where there are any,
    and otherwise all CPUs of the smallest node; there is one actor a GPU, or otherwise one a node.
    Raises :class:`~preftilt.errors.BadInput` if ``wanted`` does not fit: Ray would wait for ever.
    """
    working = [node for node in nodes if node.cpus > 0]
    if not working:
        raise BadInput("the Ray cluster has no node with CPUs; start one (ray start)")
    any_gpu = any(node.gpus > 0 for node in working)
    gpus = wanted.gpus if wanted.gpus is not None else float(holds_model and any_gpu)
    whole_node = holds_model and not gpus
    cpus = wanted.cpus or (min(node.cpus for node in working) if whole_node else 1.0)
    if wanted.cpus is None and wanted.actors is not None and whole_node:
        cpus = _cpus_per_actor(working, wanted.actors)
    room = [_actors_that_fit(node, cpus, gpus) for node in working]
    actors = wanted.actors or (sum(room) if gpus else sum(map(bool, room)))
    if not 0 < actors <= sum(room):
        each = f"{cpus:g} CPUs and {gpus:g} GPUs each"
        raise BadInput(
            f"the Ray cluster has room for {sum(room)} actors with {each}, not for {max(actors, 1)}: ask for fewer or"
            " smaller ones (--ray-actors, --ray-cpus-per-actor, --ray-gpus-per-actor), or start more nodes"
        )
    return ActorPool(actors=actors, cpus=cpus, gpus=gpus)


def _cpus_per_actor(nodes: Sequence[Node], actors: int) -> float:
    """CPUs of an actor where ``actors`` are spread evenly over the nodes and share the CPUs of theirs."""
    actors_per_node = -(-actors // len(nodes))
    return max(min(node.cpus for node in nodes) // actors_per_node, 1.0)


def _actors_that_fit(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = int(node.cpus / cpus + 1e-9)
    if not gpus:
        return by_cpus
    # Ray takes a fraction of a GPU from a single GPU, never from the remainders of two.
    actors_per_gpu = int(1 / gpus + 1e-9)
    by_gpus = int(node.gpus) * actors_per_gpu if actors_per_gpu else int(node.gpus / gpus)
    return min(by_cpus, by_gpus)


TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
STORED_TOKEN = Path("~/.ray/auth_token")
"""Where `ray get-auth-token --generate` leaves it."""

ENTRY_SECONDS = 15
"""Time limit of the whole check; a healthy cluster takes half a second."""

NODE_SECONDS = 5
"""Time limit for finding the node of this machine, which may have just started."""


def has_token() -> bool:
    """Whether a token is configured for Ray, or stored where Ray looks for it."""
    return (
        any(os.environ.get(variable) for variable in TOKEN_VARIABLES)
        or STORED_TOKEN.expanduser().exists()
    )


def check_entry(address: str, seconds: float = ENTRY_SECONDS) -> None:
    """Refuse a cluster that does not answer as one, wants another token, or has no node on this machine.

    address: HOST:PORT, or ``auto`` for that of this machine. seconds: the time limit.
    Raises :class:`~preftilt.errors.BadInput`, and what Ray raises for other failures.
    """
    from ray.exceptions import AuthenticationError

    answer: Future[None] = Future()

    def ask() -> None:
        try:
            answer.set_result(_ask(address))
        except BaseException as failure:
            answer.set_exception(failure)

    # Ray's client cannot be interrupted while it waits for an answer; the daemon thread ends with the process.
    Thread(target=ask, name="preftilt-ray-entry", daemon=True).start()
    try:
        answer.result(seconds)
    except TimeoutError:
        raise BadInput(
            f"--ray {address}: no Ray cluster answered within {seconds:g} s; give the address that `ray start --head`"
            " told (its port is 6379 unless another was asked for; those of the dashboard and of clients are others)"
        ) from None
    except AuthenticationError:
        what = "does not take the token that was shown" if has_token() else "asks for a token"
        raise BadInput(
            f"--ray {address}: the cluster {what}; put the one of its nodes into RAY_AUTH_TOKEN or"
            f" {STORED_TOKEN}, or name its file in RAY_AUTH_TOKEN_PATH"
        ) from None


def _ask(address: str) -> None:
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.services import canonicalize_bootstrap_address, get_node_to_connect_for_driver
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    try:
        head = canonicalize_bootstrap_address(address)
    except ConnectionError:
        raise BadInput(
            f"--ray {address}: no Ray cluster runs on this machine; start one with `ray start --head`, or use"
            " --ray local"
        ) from None
    # Ray's client would end the process if the cluster wants a token and there is none.
    ensure_token_if_auth_enabled(create_token_if_missing=False)
    client = GcsClient(address=head)
    try:
        get_node_to_connect_for_driver(client, timeout_seconds=NODE_SECONDS)
    except RuntimeError:
        raise BadInput(
            f"--ray {address}: the cluster answers, but this machine is none of its nodes; make it one"
            f" (ray start --address={head}), or run preftilt on one of them (ray job submit does so)"
        ) from None


LOCAL = "local"
AUTO = "auto"
ANSWER_SECONDS = 5.0
"""How long a cluster may take to accept a connection."""

OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory for a cluster that we start: rows and records are short texts."""

STARTUP_TIMEOUTS = {
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "300",
}
"""Seconds that the processes of a cluster that we start may take; Ray's own limit of 30 is often too short."""


def require_ray() -> None:
    """Raises :class:`~preftilt.errors.MissingPackage` where Ray is not installed."""
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise MissingPackage(f'--ray needs {package}: pip install "preftilt[ray]"')


def check_address(address: str) -> None:
    """Refuse a malformed address, or one where nothing listens, before Ray waits a minute for it."""
    if address in (LOCAL, AUTO):
        return
    if "://" in address:
        raise BadInput(
            f"--ray {address}: a data set cannot be driven from outside the cluster; run preftilt on one of its nodes"
            f" with --ray {AUTO} (ray job submit does so), or give HOST:PORT"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInput(f"--ray {address} is not {LOCAL}, {AUTO} or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as failure:
        raise BadInput(
            f"--ray {address}: nothing answers there ({failure.strerror or failure}); start a cluster with"
            f" `ray start --head`, or use --ray {LOCAL}"
        ) from None


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be connected within the block to the cluster at ``address``, or to one that is started for it (``local``).

    Raises :class:`~preftilt.errors.BadInput` if that fails.
    """
    require_ray()
    check_address(address)
    _prepare(address)
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(
                address=LOCAL, include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet
            )
        else:
            check_entry(address)
            ray.init(address=address, **quiet)
    except BadInput:
        raise
    except Exception as failure:  # Ray raises its own, built-in and bare exceptions here.
        ray.shutdown()
        reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
        raise BadInput(f"--ray {address}: {reason}") from failure
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[Node]:
    """The live nodes of the cluster that we are connected to."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [
        Node(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0)) for resources in alive
    ]


def _prepare(address: str) -> None:
    """Set the environment variables that Ray reads when it is imported or started, where the user has not."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's core logs every restart of a Ray Data actor as an error on the driver's standard error, besides raising it.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == LOCAL:
        for name, seconds in STARTUP_TIMEOUTS.items():
            os.environ.setdefault(name, seconds)
        if not any(variable in os.environ for variable in ("RAY_AUTH_MODE", *TOKEN_VARIABLES)):
            # Ray would protect the cluster with a token stored in the home folder; this token is for this run alone.
            os.environ["RAY_AUTH_TOKEN"] = token_hex(32)
    elif has_token():
        # Ray uses a stored token for a cluster that it finds by itself, but not for one that is named.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
