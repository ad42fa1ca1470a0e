"""Logs: one JSON object a line. No prompt, preference, answer or key, unless the operator asks for the words."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("preftilt.server")


class JsonLines(logging.Formatter):
    """A record's ``data`` and message as one line of ASCII: nothing in it can begin another line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "data", {})
        if record.exc_info and record.exc_info[1]:
            line["failure"] = failure_places(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True, default=str)


def failure_places(failure: BaseException) -> dict[str, Any]:
    """The type of an exception and its stack; not its message, which may quote a user's text."""
    places = traceback.extract_tb(failure.__traceback__)
    return {
        "type": type(failure).__name__,
        "places": [f"{place.filename}:{place.lineno} {place.name}" for place in places[-8:]],
    }


def log(
    event: str, *, level: int = logging.INFO, failure: BaseException | None = None, **data: Any
) -> None:
    """One line."""
    LOGGER.log(level, event, exc_info=failure, extra={"data": data})


def set_up(level: str) -> None:
    """Send the server's, the engines' and uvicorn's records to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("preftilt.server", "preftilt.engines", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
