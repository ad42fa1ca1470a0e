"""HTTP client for one server: pooled, with a deadline; retries only what cannot have been executed.

Retried: requests that never reached the server (no connection, for some seconds) or that it declined to start (429 and
503), no sooner than ``Retry-After`` says. Not retried: connections that broke in the middle, and timeouts of a proxy
(502, 504), because the server may have done the work. Cancelling a request closes its connection, which tells the
server to stop.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_random_exponential,
)

import preftilt
from preftilt.errors import BadInput, EngineError, EngineTimeout

Answer = TypeVar("Answer", bound=BaseModel)
T = TypeVar("T")

ATTEMPTS = 6
CONNECT_SECONDS = 5.0
UNREACHABLE_SECONDS = 4.0
"""How long connecting is retried; a server that restarts takes longer anyway."""

CHECK_SECONDS = 5.0
"""Time limit of a health check, which other requests wait for: no longer than a connection."""

LONGER = "give it longer (--timeout), or ask for fewer or shorter responses"
"""The remedy for an answer that takes too long."""

KEEPALIVE_SECONDS = 3.0
"""An idle connection is given up before uvicorn (vLLM's and SGLang's server) closes it, after 5 s: a request that is
sent meanwhile would be lost, and may not be sent again."""

SPARE_CONNECTIONS = 4
MAX_ANSWER_BYTES = 1 << 28
"""Longer answers are refused, before they fill the memory."""

MAX_QUOTED = 300
"""Characters of a server's message that an error quotes."""

DONE = "[DONE]"
"""The event that ends a stream; it is not JSON."""

BACK_OFF = wait_random_exponential(multiplier=0.25, max=8)
BUSY = frozenset({429, 503})


class Declined(EngineError):
    """The server answered with an error; ``status`` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Later(Declined):
    """The request cannot have been started, and may be retried; ``after``: seconds by ``Retry-After``, if sent."""

    def __init__(self, message: str, status: int = 0, after: float | None = None) -> None:
        super().__init__(message, status)
        self.after = after


class Unreachable(Later):
    """No connection to the server."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One server; made by :func:`connect`. Belongs to one event loop."""

    url: str
    key_variable: str
    timeout: float
    client: httpx2.AsyncClient = field(repr=False)
    slots: asyncio.Semaphore = field(repr=False)
    secret: str = field(repr=False)

    async def get(self, path: str, answer: type[Answer]) -> Answer:
        """GET ``path``; errors as in :meth:`post`. It does not count towards ``max_connections``."""
        async with self._deadline(path, self.timeout):
            return self._parse(
                path, await self._with_retries(self._request, "GET", path, None), answer
            )

    async def check(self, path: str, answer: type[Answer]) -> Answer:
        """GET ``path`` once, within :data:`CHECK_SECONDS`, because other requests wait for it; errors as in
        :meth:`post`."""
        seconds = min(CHECK_SECONDS, self.timeout)
        async with self._deadline(path, seconds, "is the server still running there?"):
            return self._parse(path, await self._request("GET", path, None), answer)

    async def post(self, path: str, body: Mapping[str, Any], answer: type[Answer]) -> Answer:
        """POST ``body`` as JSON and parse the answer as ``answer``.

        Raises :class:`Declined` if the server answers with an error, and :class:`~preftilt.errors.EngineError` if it
        does not answer, not in time, or with something else than ``answer``.
        """
        data = json.dumps(body, allow_nan=False).encode()
        async with self.slots, self._deadline(path, self.timeout):
            return self._parse(
                path, await self._with_retries(self._request, "POST", path, data), answer
            )

    async def events(
        self, path: str, body: Mapping[str, Any], event: type[Answer]
    ) -> AsyncGenerator[Answer, None]:
        """POST ``body`` as JSON and yield the server-sent events of the answer, each parsed as ``event``.

        An answer that is no event stream is parsed as the only event. Errors as in :meth:`post`; one in the middle is
        raised after the events before it. Closing the generator closes the connection.
        """
        data = json.dumps(body, allow_nan=False).encode()
        async with self.slots, self._deadline(path, self.timeout):
            response = await self._with_retries(self._open_response, "POST", path, data)
            try:
                with self._translated_errors(path):
                    if not _is_event_stream(response):
                        yield self._parse(path, await self._read_body(response, path), event)
                        return
                    async for sent in httpx2.EventSource(response, max_event_size=MAX_ANSWER_BYTES):
                        if sent.data != DONE:
                            yield self._parse(path, sent.data.encode(), event)
            finally:
                await response.aclose()

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()

    @asynccontextmanager
    async def _deadline(
        self, path: str, seconds: float, remedy: str = LONGER
    ) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise EngineTimeout(
                f"{self.url}{path} did not answer within {seconds:g} s; {remedy}"
            ) from None

    async def _with_retries(
        self, attempt: Callable[..., Coroutine[Any, Any, T]], *arguments: object
    ) -> T:
        """Retry as long as the request cannot have been executed."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Later),
            wait=_retry_delay,
            stop=self._give_up,
            reraise=True,
        )
        return await retrying(attempt, *arguments)

    def _give_up(self, state: RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome else None
        limit = UNREACHABLE_SECONDS if isinstance(failure, Unreachable) else self.timeout
        spent = (state.seconds_since_start or 0.0) + state.upcoming_sleep
        return state.attempt_number >= ATTEMPTS or spent >= limit

    async def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        response = await self._open_response(method, path, body)
        try:
            with self._translated_errors(path):
                return await self._read_body(response, path)
        finally:
            await response.aclose()

    async def _open_response(self, method: str, path: str, body: bytes | None) -> httpx2.Response:
        """Send a request and return the response if its status is 200; the caller closes it."""
        request = self.client.build_request(method, self.url + path, content=body)
        with self._translated_errors(path):
            response = await self.client.send(request, stream=True)
        if response.status_code == httpx2.codes.OK:
            return response
        try:
            with self._translated_errors(path):
                data = await self._read_body(response, path)
        finally:
            await response.aclose()
        raise self._status_error(response, path, data)

    @contextmanager
    def _translated_errors(self, path: str) -> Iterator[None]:
        """Translate httpx errors into ours."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unreachable(
                f"{self.url} cannot be reached ({error or type(error).__name__}); is the server running there?"
            ) from None
        except httpx2.HTTPError as error:
            raise EngineError(
                f"{self.url}{path} broke off in the middle of an answer ({error or type(error).__name__});"
                " look at the server's log"
            ) from None

    async def _read_body(self, response: httpx2.Response, path: str) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise EngineError(f"{self.url}{path} answers without end ({size >> 20} MiB so far)")
            parts.append(part)
        return b"".join(parts)

    def _parse(self, path: str, data: bytes, answer: type[Answer]) -> Answer:
        try:
            return answer.model_validate_json(data)
        except ValidationError as error:
            complaint = _first_error(error)
        if (status := _error_status(data)) is not None:
            raise Declined(
                f"{self.url}{path} answered with an error, though with HTTP 200: {self._server_message(data)}",
                status,
            )
        raise EngineError(
            f"{self.url}{path} answered with something else than {answer.__name__}: {complaint}"
        )

    def _server_message(self, data: bytes) -> str:
        server_message = _server_message(data)
        return server_message.replace(self.secret, "…") if self.secret else server_message

    def _status_error(self, response: httpx2.Response, path: str, data: bytes) -> Declined:
        status = response.status_code
        server_message = self._server_message(data)
        message = f"{self.url}{path} answered {status}: {server_message or response.reason_phrase}"
        if status in BUSY:
            return Later(message, status, _retry_after(response.headers.get("retry-after", "")))
        if status in (401, 403):
            which = "is set, but refused" if self.secret else "is not set"
            message += (
                f" (the key comes from the environment variable {self.key_variable}, which {which})"
            )
        if 300 <= status < 400:
            message += " (redirects are not followed; give the server's final URL)"
        return Declined(message, status)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The authorities that are trusted: read once a process, for it takes longer than a connection."""
    return httpx2.create_ssl_context()


def connect(url: str, *, key_variable: str, timeout: float, max_connections: int) -> Connection:
    """A client of the server at ``url`` (``http://host:port``, a path may follow).

    Call it on the event loop that will use it. Nothing is sent yet. Raises :class:`~preftilt.errors.BadInput` for an
    invalid URL, or one with a password.
    """
    parts = _checked_url(url)
    secret = os.environ.get(key_variable, "").strip()
    if secret and not (secret.isascii() and secret.isprintable()):
        raise BadInput(f"the key in {key_variable} has characters that no HTTP header can hold")
    headers = {"content-type": "application/json", "user-agent": f"preftilt/{preftilt.__version__}"}
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    client = httpx2.AsyncClient(
        headers=headers,
        verify=_certificates(),
        # The deadline is for the whole request; generation is silent for long before its answer.
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(
            # Requests that need a slot, and health checks.
            max_connections=max_connections + SPARE_CONNECTIONS,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
        ),
    )
    return Connection(
        url=parts,
        key_variable=key_variable,
        timeout=timeout,
        client=client,
        slots=asyncio.Semaphore(max_connections),
        secret=secret,
    )


def _checked_url(url: str) -> str:
    """The URL without a slash or ``/v1`` at its end."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise BadInput(f"{url!r} is no server's URL; it looks like http://HOST:PORT")
    if parts.username or parts.password:
        raise BadInput(
            "a server's URL may hold no user name or password, because it stands in records and errors; put the key"
            " into the environment variable PREFTILT_API_KEY"
        )
    if parts.query or parts.fragment:
        raise BadInput(f"{url!r} has a query or a fragment; give http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")


def _is_event_stream(response: httpx2.Response) -> bool:
    kind, _, _ = response.headers.get("content-type", "").partition(";")
    return kind.strip().lower() == "text/event-stream"


def _retry_delay(state: RetryCallState) -> float:
    """Seconds until the next attempt: ``Retry-After``, or exponential back-off with jitter."""
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, Later) and failure.after is not None:
        return failure.after
    return BACK_OFF(state)


def _retry_after(text: str) -> float | None:
    """``Retry-After`` in seconds; None for its other form, a date."""
    try:
        return max(0.0, min(float(text), 3600.0))
    except ValueError:
        return None


def _error_status(data: bytes) -> int | None:
    """The status of an error sent with HTTP 200: its ``code``, or 200; None if the answer is no error."""
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    if not isinstance(answer, dict) or not (answer.get("error") or answer.get("object") == "error"):
        return None
    error = answer.get("error") or answer
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def _server_message(data: bytes) -> str:
    """The message in a server's error, in one line."""
    try:
        message = json.loads(data)
    except ValueError:
        message = data.decode("utf-8", "replace")
    while isinstance(message, dict):
        message = next(
            (message[key] for key in ("error", "message", "detail") if key in message), ""
        )
    return shortened(str(message))


def shortened(message: str) -> str:
    """A server's message in one printable line of at most :data:`MAX_QUOTED` characters."""
    text = " ".join(message.split())
    shown = "".join(character for character in text if character.isprintable())
    return shown if len(shown) <= MAX_QUOTED else shown[: MAX_QUOTED - 1] + "…"


def _first_error(error: ValidationError) -> str:
    """The first validation error, without the answer's content."""
    [first, *others] = error.errors(include_url=False, include_input=False)
    where = ".".join(str(key) for key in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    return f"{where + ': ' if where else ''}{first['msg']}{more}"
