"""Differences between servers with OpenAI's API, learned from their first answers: refused fields, model aliases,
streams.

Newer models take ``max_completion_tokens`` in place of ``max_tokens``, some take no seed, or refuse fields that other
servers need. Only fields whose absence does not change the request are left out, or renamed; any other refusal is an
error with the server's message.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from preftilt.engines.base import Fact, Increment
from preftilt.engines.http.connection import Connection, Declined
from preftilt.errors import EngineError

Answer = TypeVar("Answer", bound=BaseModel)

RENAMED = {"max_tokens": "max_completion_tokens"}
"""A field's older and newer name."""

NEUTRAL: dict[str, Any] = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "echo": False,
    "stop": None,
}
"""The API's own defaults: leaving the field out does not change the request."""

REFUSED = frozenset({200, 400, 422})
"""HTTP statuses of a refusal; some servers send it with 200."""


@dataclass(slots=True)
class RefusedFields:
    """The fields that a server has refused.

    If ``seed`` is refused it is left out, too; draws are then not reproducible.
    """

    fields: frozenset[str] = frozenset()

    @property
    def facts(self) -> list[Fact]:
        """The facts to report."""
        if not self.fields:
            return []
        refused = ", ".join(sorted(self.fields))
        return [Fact("fields it refuses", refused, "left out, or sent by their newer name")]

    def without(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request body without refused fields."""
        return _without(body, self.fields)

    async def post(
        self, connection: Connection, path: str, body: Mapping[str, Any], answer: type[Answer]
    ) -> Answer:
        """POST without refused fields; errors as in :meth:`Connection.post`.

        After a refusal that names a field, the request is retried without it; the field is remembered if that helps.
        """
        fields = self.fields
        while True:
            sent = _without(body, fields)
            try:
                result = await connection.post(path, sent, answer)
            except Declined as failure:
                named = {name for name in sent if _mentions(str(failure), name)}
                fields = fields | self.fields | named
                if failure.status not in REFUSED or _without(body, fields) == sent:
                    raise
            else:
                self.fields |= {name for name in fields if _removable(name, body)}
                return result


@dataclass(slots=True)
class ModelAlias:
    """The model name in a server's answers, if it differs from the requested one.

    Hosted models have names that stand for a dated version. It is taken from the first answer, at opening.
    """

    name: str | None = None

    def check(self, answered: str, requested: str, url: str) -> None:
        """Raise :class:`~preftilt.errors.EngineError` for an answer of another model."""
        if self.name is None:
            self.name = answered
        if answered not in (requested, self.name):
            raise EngineError(
                f"{url} answered with the model {answered} where {requested} was asked"
                f"{'' if self.name == requested else f', which was {self.name} before'}; name a model that does not"
                " change (--served-model), or open it again"
            )

    def facts(self, requested: str) -> list[Fact]:
        """The facts to report."""
        if self.name in (None, requested):
            return []
        return [Fact("model in answers", str(self.name), "an answer of another one is an error")]


@dataclass(slots=True)
class StreamSupport:
    """Whether a server can stream; assumed until it refuses."""

    refused: bool = False

    async def stream_or_whole(
        self,
        stream: Callable[[], AsyncGenerator[Increment, None]],
        whole: Callable[[], Awaitable[Sequence[Increment]]],
    ) -> AsyncGenerator[Increment, None]:
        """The increments of ``stream``, or of ``whole`` if the server cannot stream; a stream that has begun is not
        repeated."""
        begun = False
        if not self.refused:
            try:
                async with aclosing(stream()) as increments:
                    async for increment in increments:
                        begun = True
                        yield increment
                return
            except Declined as failure:
                if begun or not _refuses_streams(failure):
                    raise
                self.refused = True
        for increment in await whole():
            yield increment


def _refuses_streams(failure: Declined) -> bool:
    return failure.status in (*REFUSED, 501) and re.search(r"\bstream", str(failure)) is not None


def _without(body: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    changed = {name for name in fields if _removable(name, body)}
    return {
        RENAMED.get(name, name) if name in changed else name: value
        for name, value in body.items()
        if name not in changed or name in RENAMED
    }


def _removable(name: str, body: Mapping[str, Any]) -> bool:
    """Whether the request stays the same without the field, or under its newer name.

    If ``seed`` is refused together with ``n`` > 1, it must not be dropped: answers can be requested one by one.
    """
    if name == "seed":
        return body.get("n", 1) == 1
    return name in RENAMED or (name in NEUTRAL and body.get(name) == NEUTRAL[name])


def _mentions(message: str, field: str) -> bool:
    """Whether a refusal mentions the field, or its newer name if it has one."""
    return re.search(rf"\b{re.escape(RENAMED.get(field, field))}\b", message) is not None
