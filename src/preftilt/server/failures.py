"""Errors in OpenAI's format: ``{"error": {"message", "type", "param", "code"}}`` and an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftilt.errors import (
    BadInput,
    EngineError,
    EngineTimeout,
    PreftiltError,
    PromptTooLong,
    UnseenImage,
)

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_SECONDS = 1


@dataclass(slots=True)
class ApiError(Exception):
    """An error response; ``param`` names the field at fault, if there is one."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, usual),
                "param": self.param,
                "code": self.code,
            }
        }


class ClientGone(Exception):
    """The client closed the connection before its answer was there."""


def overloaded() -> ApiError:
    """429: the admission queue is full."""
    return ApiError(
        429,
        "the server has as many requests as it can queue; try again in a moment",
        code="overloaded",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def stopping() -> ApiError:
    """503: the server is shutting down, and finishes the requests that it has admitted."""
    return ApiError(
        503,
        "the server is stopping and takes no more requests; ask another one, or this one again when it is back",
        code="stopping",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def timed_out(seconds: float) -> ApiError:
    """504: the request's hard time limit is over."""
    return ApiError(504, f"no answer within {seconds:g} seconds; ask for less, or set deadline_s")


def unknown_model(name: str, known: Sequence[str], suffixes: Sequence[str]) -> ApiError:
    """404: a name that is neither the served model's nor that of one of its presets or suffixes."""
    shown = name if len(name) <= 100 else name[:99] + "…"
    return ApiError(
        404,
        f"no model {shown!r} here; there are {', '.join(known)}; the first of them also goes with a suffix"
        f" (:{', :'.join(suffixes)})",
        param="model",
        code="model_not_found",
    )


def as_api_error(failure: Exception) -> ApiError:
    """The HTTP error for any exception; an unexpected one is a 500 without details."""
    if isinstance(failure, ApiError):
        return failure
    if isinstance(failure, PromptTooLong):
        return ApiError(400, str(failure), param="messages", code="context_length_exceeded")
    if isinstance(failure, UnseenImage):
        return ApiError(400, str(failure), param="messages")
    if isinstance(failure, BadInput):
        return ApiError(400, str(failure))
    if isinstance(failure, EngineTimeout):
        return ApiError(504, str(failure), code="engine_timeout")
    if isinstance(failure, TimeoutError):
        return ApiError(504, "the engine did not answer in time", code="engine_timeout")
    if isinstance(failure, EngineError):
        return ApiError(502, str(failure), code="engine_failed")
    if isinstance(failure, PreftiltError):
        return ApiError(500, str(failure))
    return ApiError(500, "something unforeseen went wrong; the server's log has the place")
