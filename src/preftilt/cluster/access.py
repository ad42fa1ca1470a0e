"""Whether a cluster answers and lets us in: asked within seconds, where Ray itself tries again for minutes.

The questions are those that Ray asks when it joins a cluster, by its own client, which has no public face. Ray is
imported here and only when it is used.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from preftilt.errors import BadInput

OWN_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
KEPT_TOKEN = Path("~/.ray/auth_token")
"""Where `ray get-auth-token --generate` leaves it."""

ENTRY_SECONDS = 15
"""For all questions together; a cluster that is well answers them in half a second."""

NODE_SECONDS = 5
"""For a node of this machine to be found, which may have been started just now."""


def has_token() -> bool:
    """Whether there is a token that Ray would show, or should have been able to."""
    return any(os.environ.get(one) for one in OWN_TOKEN) or KEPT_TOKEN.expanduser().exists()


def check_entry(address: str, seconds: float = ENTRY_SECONDS) -> None:
    """Refuse a cluster that does not answer as one, wants another token, or has no node on this machine.

    address: HOST:PORT, or ``auto`` for that of this machine. seconds: that it may take.
    Raises :class:`~preftilt.errors.BadInput`, and for what has no words of ours what Ray raises.
    """
    from ray.exceptions import AuthenticationError

    asked: Future[None] = Future()

    def ask() -> None:
        try:
            asked.set_result(_ask(address))
        except BaseException as failure:
            asked.set_exception(failure)

    # Where nobody answers, Ray's client cannot be told to stop waiting; it ends with the process.
    Thread(target=ask, name="preftilt-ray-entry", daemon=True).start()
    try:
        asked.result(seconds)
    except TimeoutError:
        raise BadInput(
            f"--ray {address}: no Ray cluster answered within {seconds:g} s; give the address that `ray start --head`"
            " told (its port is 6379 unless another was asked for; those of the dashboard and of clients are others)"
        ) from None
    except AuthenticationError:
        what = "does not take the token that was shown" if has_token() else "asks for a token"
        raise BadInput(
            f"--ray {address}: the cluster {what}; put the one of its nodes into RAY_AUTH_TOKEN or"
            f" {KEPT_TOKEN}, or name its file in RAY_AUTH_TOKEN_PATH"
        ) from None


def _ask(address: str) -> None:
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.services import canonicalize_bootstrap_address, get_node_to_connect_for_driver
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        raise BadInput(
            f"--ray {address}: no Ray cluster runs on this machine; start one with `ray start --head`, or use"
            " --ray local"
        ) from None
    # Its client ends the process where a token is wanted and there is none.
    ensure_token_if_auth_enabled(create_token_if_missing=False)
    client = GcsClient(address=found)
    try:
        get_node_to_connect_for_driver(client, timeout_seconds=NODE_SECONDS)
    except RuntimeError:
        raise BadInput(
            f"--ray {address}: the cluster answers, but this machine is none of its nodes; make it one"
            f" (ray start --address={found}), or run preftilt on one of them (ray job submit does so)"
        ) from None
