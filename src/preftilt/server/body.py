"""The bodies of requests and responses: JSON, bounded in bytes, in depth, and in the size of its numbers; responses are
compact, without NaN, and lone surrogates from a client's text are escaped and never fail."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from preftilt.errors import BadInput
from preftilt.records.lines import json_line, parse_json
from preftilt.server.failures import ApiError, ClientGone

MAX_DEPTH = 32
MAX_WHOLE = 2**63 - 1
READ_SECONDS = 30.0
DISCARDED = 8
"""Times the limit: the connection is closed on a client that sends more than that."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of ``limit`` bytes at most; refuses with 408, 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send the body as JSON, with the header Content-Type: application/json")
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await _read(request, limit)
    except TimeoutError:
        raise ApiError(408, f"the body was not there within {READ_SECONDS:g} seconds") from None


def parse_body(raw: bytes) -> Any:
    """The body's value; refuses with 400."""
    value = parse_json(raw)
    _check_shape(value)
    return value


async def _read(request: Request, limit: int) -> bytes:
    """The body's bytes. A body that is too large is read on for a while, or the client would not see the 413."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > DISCARDED * limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ClientGone from None
    if size > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", headers={"Connection": "close"})


def _check_shape(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(value, int) and abs(value) > MAX_WHOLE for value in level):
            raise BadInput("a whole number is beyond 64 bits; send a smaller one")
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise BadInput(f"the body is nested more than {MAX_DEPTH} levels deep")


class JsonReply(Response):
    """A response of one JSON value."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_line(content)


def error_reply(error: ApiError) -> JsonReply:
    """The HTTP response of an error."""
    return JsonReply(error.body, status_code=error.status, headers=dict(error.headers))
