"""Checks within seconds that a cluster can be reached and accepts us, where Ray itself retries for minutes.

The calls are those that Ray makes when it joins a cluster, by its own client, which has no public interface. Ray is
imported only when it is used.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from preftilt.errors import BadInput

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
