"""Being part of a Ray cluster, or starting one on this machine; Ray is imported here and only when it is used."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from secrets import token_hex

from preftilt.cluster.access import OWN_TOKEN, check_entry, has_token
from preftilt.cluster.actor_pool import Node
from preftilt.errors import BadInput, MissingPackage

LOCAL = "local"
AUTO = "auto"
ANSWER_SECONDS = 5.0
"""How long a cluster may take to accept a connection."""

OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory for a cluster of our own: rows and records are text, and go at once."""

PATIENCE = {"RAY_gcs_server_port_wait_time_s": "120", "RAY_worker_register_timeout_seconds": "300"}
"""Seconds that the processes of a cluster of our own may take to start; Ray allows some of them 30, often too few."""


def require_ray() -> None:
    """Raises :class:`~preftilt.errors.MissingPackage` where Ray is not installed."""
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise MissingPackage(f'--ray needs {package}: pip install "preftilt[ray]"')


def check_address(address: str) -> None:
    """Refuse an address that is none, or where nothing listens, before Ray waits a minute for it."""
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
    """Around the work: connected to the cluster at ``address``, or to one that lives here as long as this block.

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
    except Exception as failure:  # Ray raises its own errors, built-in ones and bare ones here.
        ray.shutdown()
        told = str(failure).strip().partition("\n")[0] or type(failure).__name__
        raise BadInput(f"--ray {address}: {told}") from failure
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[Node]:
    """The machines of the cluster that was joined."""
    import ray

    alive = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    return [Node(cpus=one.get("CPU", 0.0), gpus=one.get("GPU", 0.0)) for one in alive]


def _prepare(address: str) -> None:
    """What Ray reads from the environment when it is imported or started; a user's own word comes first."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's core calls every actor of Ray Data an error on the driver's standard error, and repeats what it then raises.
    # It says in one line that it was told to be silent.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == LOCAL:
        for name, seconds in PATIENCE.items():
            os.environ.setdefault(name, seconds)
        if not any(one in os.environ for one in ("RAY_AUTH_MODE", *OWN_TOKEN)):
            # Ray guards a cluster with a token that it leaves in the home folder; this one ends with the run.
            os.environ["RAY_AUTH_TOKEN"] = token_hex(32)
    elif has_token():
        # Ray shows a token that it finds to a cluster that it finds, but not to one that is named.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
