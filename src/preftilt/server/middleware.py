"""Around every route: request ids, the key, the Host, safe headers, the log line and the counters."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preftilt.prompt import rendered_at
from preftilt.server.body import error_reply
from preftilt.server.failures import ApiError
from preftilt.server.logs import log
from preftilt.server.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SAFE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may use the server.

    key: what ``Authorization: Bearer`` must hold for ``/v1``; None asks for none.
    local_only: refuse a ``Host`` that is not this machine's own name, so that no web page can reach a server without
    a key through a name of its own (DNS rebinding).
    """

    key: str | None = None
    local_only: bool = False

    def refusal(self, path: str, headers: Headers) -> ApiError | None:
        """The error to answer with, or None if the request may pass."""
        if self.local_only and not is_loopback(_host_name(headers.get("host", ""))):
            return ApiError(
                403,
                "this server has no key and answers to its local name only; set --client-key-env",
            )
        if self.key is None or not (path == "/v1" or path.startswith("/v1/")):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(key.strip().encode("latin-1", "replace"), self.key.encode())
        if scheme.lower() == "bearer" and same:
            return None
        return ApiError(
            401,
            "the API key is missing or wrong: send Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class RequestMiddleware:
    """The outermost layer of the application. An unexpected exception becomes a 500 in OpenAI's format here."""

    def __init__(
        self, app: ASGIApp, access: AccessPolicy, metrics: Metrics, endpoints: Sequence[str]
    ) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._endpoints = frozenset(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        facts = _begin(scope, headers)
        sender = _Sender(send, facts["request_id"])
        try:
            refusal = self._access.refusal(scope["path"], headers)
            if refusal is not None:
                await error_reply(refusal)(scope, receive, sender)
            else:
                with rendered_at(datetime.now()):  # What a chat template shows as today.
                    await self._app(scope, receive, sender)
        except Exception as failure:
            log("unforeseen failure", level=40, failure=failure, request_id=facts["request_id"])
            if sender.status is None:
                unforeseen = ApiError(500, "something unforeseen went wrong; the log has the place")
                await error_reply(unforeseen)(scope, receive, sender)
        finally:
            self._note(scope, facts, sender.status or 499, time.perf_counter() - began)

    def _note(self, scope: Scope, facts: Mapping[str, Any], status: int, seconds: float) -> None:
        path = scope["path"]
        endpoint = path if path in self._endpoints else "other"
        status = facts.get("outcome", status)
        self._metrics.requests.labels(endpoint, str(status)).inc()
        self._metrics.seconds.labels(endpoint).observe(seconds)
        log(
            "request",
            method=scope["method"][:16],
            path=path[:200],
            status=status,
            seconds=round(seconds, 4),
            **{name: value for name, value in facts.items() if name != "outcome"},
        )


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a name or address of this very machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def note(scope: Scope, **facts: Any) -> None:
    """Add facts to the request's log line; ``outcome`` is the status to log where none could be sent."""
    scope["preftilt"].update(facts)


def request_id(scope: Scope) -> str:
    """The id of the request: the client's own, if it is a plain word, or a fresh one."""
    return scope["preftilt"]["request_id"]


def _begin(scope: Scope, headers: Headers) -> dict[str, Any]:
    named = headers.get("x-request-id", "")
    facts = {"request_id": named if REQUEST_ID.fullmatch(named) else uuid4().hex}
    scope["preftilt"] = facts
    return facts


def _host_name(host: str) -> str:
    """The name of a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


@dataclass(slots=True)
class _Sender:
    """Wraps ``send``: notes the status and adds the headers that every response has."""

    send: Send
    request_id: str
    status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            for name, value in SAFE_HEADERS.items():
                headers[name] = value
        await self.send(message)
