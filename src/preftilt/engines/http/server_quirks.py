"""What a server refuses of a question, learned from its words, once.

OpenAI's API has as many forms as it has servers: newer models want ``max_completion_tokens`` in place of
``max_tokens``, some take no seed, or no field that other servers need to be told. Only fields that change nothing of
what was asked are left out, or renamed; all else that is refused is an error with the server's words.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from preftilt.engines.facts import Fact
from preftilt.engines.http.connection import Connection, Declined
from preftilt.engines.streaming import Increment
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
"""Values that are the API's own defaults: leaving the field out asks for the same."""

REFUSED = frozenset({200, 400, 422})
"""Statuses of a refusal; some servers send it with 200."""


@dataclass(slots=True)
class RefusedFields:
    """The fields that one server has refused; shared by all who ask it.

    seed: it is left out, too, where the server takes none, and draws are then not reproducible.
    """

    fields: frozenset[str] = frozenset()

    @property
    def facts(self) -> list[Fact]:
        """What people should know of it."""
        if not self.fields:
            return []
        refused = ", ".join(sorted(self.fields))
        return [Fact("fields it refuses", refused, "left out, or sent by their newer name")]

    def without(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The question without what the server is known to refuse."""
        return _without(body, self.fields)

    async def post(
        self, connection: Connection, path: str, body: Mapping[str, Any], answer: type[Answer]
    ) -> Answer:
        """Ask without what the server is known to refuse; errors as in :meth:`Connection.post`.

        A refusal that names a field is tried without it, and remembered if that helps.
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
    """What a server calls its model in its answers, where that is not what it was asked for.

    Hosted models have names that stand for one of a date. The first answer tells, when the engine is opened.
    """

    name: str | None = None

    def check(self, answered: str, requested: str, url: str) -> None:
        """Raise :class:`~preftilt.errors.EngineError` for an answer of another model than the first one's."""
        if self.name is None:
            self.name = answered
        if answered not in (requested, self.name):
            raise EngineError(
                f"{url} answered with the model {answered} where {requested} was asked"
                f"{'' if self.name == requested else f', which was {self.name} before'}; name a model that does not"
                " change (--served-model), or open it again"
            )

    def facts(self, requested: str) -> list[Fact]:
        """What people should know of it."""
        if self.name in (None, requested):
            return []
        return [Fact("model in answers", str(self.name), "an answer of another one is an error")]


@dataclass(slots=True)
class StreamSupport:
    """Whether a server streams: until it refuses it, once."""

    refused: bool = False

    async def stream_or_whole(
        self,
        stream: Callable[[], AsyncGenerator[Increment, None]],
        whole: Callable[[], Awaitable[Sequence[Increment]]],
    ) -> AsyncGenerator[Increment, None]:
        """What ``stream`` gives, or ``whole`` where the server does not stream; a stream that has begun is not asked
        for again in any way."""
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
    """Whether the question stays the same without the field, or under its newer name.

    Where n answers are asked for and a seed is refused, it is the two together: they can be asked for one by one.
    """
    if name == "seed":
        return body.get("n", 1) == 1
    return name in RENAMED or (name in NEUTRAL and body.get(name) == NEUTRAL[name])


def _mentions(message: str, field: str) -> bool:
    """Whether a refusal is about the field; of one with a newer name, whether it names that one."""
    return re.search(rf"\b{re.escape(RENAMED.get(field, field))}\b", message) is not None
