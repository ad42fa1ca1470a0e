"""JSON on its way out: compact, without NaN, and never failing on what a client smuggled in."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


def dump(value: object) -> bytes:
    """Compact JSON in UTF-8; half a surrogate pair, which UTF-8 cannot say, leaves as JSON's escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class JsonReply(Response):
    """A response of one JSON value."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump(content)
