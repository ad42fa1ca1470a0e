"""JSON responses: compact, without NaN; lone surrogates from a client's text are escaped and never fail."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from preftilt.records.lines import json_line
from preftilt.server.failures import ApiError


class JsonReply(Response):
    """A response of one JSON value."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_line(content)


def error_reply(error: ApiError) -> JsonReply:
    """The HTTP response of an error."""
    return JsonReply(error.body, status_code=error.status, headers=dict(error.headers))
