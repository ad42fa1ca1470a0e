"""vLLM's routes with the knob. ``/v1/chat/completions``: who answers a request, and how its bytes get there;
``/v1/models``, where programs look for what they can ask: with presets, and what may be added to a name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preftilt.engines.base import Capabilities
from preftilt.server.body import JsonReply
from preftilt.server.guidance import asks_guidance
from preftilt.server.names import model_names, read_suffix
from preftilt.server.resolve import ServerConfig, knob_card


@dataclass(slots=True)
class ModelsRoute:
    """Adds to the list of ``vllm_route`` what ``configs``, by the model's served names, say of it.

    capabilities: of the engine that answers guided requests; None until it is open, and the list vLLM's own.
    """

    vllm_route: ASGIApp
    configs: Mapping[str, ServerConfig] = field(default_factory=dict)
    capabilities: Capabilities | None = None

    async def __call__(self, request: Request) -> Response:
        """The route's endpoint."""
        status, raw = await _replied(self.vllm_route, request)
        if status != 200 or self.capabilities is None:
            return Response(raw, status, media_type="application/json")
        listed = json.loads(raw)
        cards = [card for own in listed["data"] for card in self._cards(own, self.capabilities)]
        return JsonReply(listed | {"data": cards})

    def _cards(
        self, own: Mapping[str, Any], capabilities: Capabilities
    ) -> Iterator[Mapping[str, Any]]:
        """vLLM's card with what is to be said of the knob, then one for each preset; an adapter's as it is."""
        config = self.configs.get(own["id"])
        if config is None:
            yield own
            return
        for name in model_names(config.model, config.presets):
            preset = (
                {} if name == config.model else {"parent": config.model, "owned_by": "preftilt"}
            )
            yield {**own, "id": name, **preset, "preftilt": knob_card(name, config, capabilities)}


async def _replied(app: ASGIApp, request: Request) -> tuple[int, bytes]:
    """The status and the body that another application answers the request with."""
    status, body = 500, b""

    async def send(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")

    await app(dict(request.scope), request.receive, send)
    return status, body


FIELD = "preftilt"


@dataclass(slots=True)
class ChatRouter:
    """Sends a request to ``apps``, the applications by the model's served names, or to ``vllm_route``, vLLM's route.

    configs: what the operator decided for each name.
    """

    vllm_route: ASGIApp
    apps: dict[str, ASGIApp] = field(default_factory=dict)
    configs: dict[str, ServerConfig] = field(default_factory=dict)

    async def __call__(self, request: Request) -> Response:
        """The route's endpoint."""
        raw = await request.body()
        name = self.guided_model(raw)
        return Handover(self.vllm_route if name is None else self.apps[name], raw)

    def guided_model(self, raw: bytes) -> str | None:
        """The served name whose knob the body turns; None if it turns none.

        A body without a word of ours is not even parsed. One that is no JSON is vLLM's to refuse.
        """
        if not any(mark in raw for mark in self._marks()):
            return None
        try:
            body = json.loads(raw)
        except ValueError:
            return None
        if not isinstance(body, dict):
            return None
        model = body["model"] if isinstance(body.get("model"), str) else ""
        name, asks = self._named(model)
        config = self.configs[name]
        # An adapter's system message is an instruction as any other: it cannot be guided by it.
        by_system = config.preference_from == "system" and model not in config.adapters
        stated = by_system and _has_system(body)
        knob = body.get(FIELD) is not None or asks_guidance(body)
        return name if asks or stated or knob else None

    def _named(self, model: str) -> tuple[str, bool]:
        """The served name that answers for a model's name, and whether the name says more than a model or adapter."""
        head, colon, rest = model.rpartition(":")
        first = next(iter(self.configs))
        if model in self.configs:
            return model, False
        config = self.configs[head if head in self.configs else first]
        if colon and (head in self.configs or head in config.adapters):
            return config.model, rest in config.presets or read_suffix(rest) is not None
        return first, model in config.presets

    def _marks(self) -> list[bytes]:
        """Bytes of which one stands in every body that turns the knob: escapes may hide any word."""
        marks = [b"\\u", FIELD.encode(), b"guidance_scale", b"negative_prompt"]
        for name, config in self.configs.items():
            marks += [json.dumps(named)[1:-1].encode() + b":" for named in (name, *config.adapters)]
            marks += [preset.encode() for preset in config.presets]
            if config.preference_from == "system":
                marks.append(b"system")
                marks.append(b"developer")
        return marks


def _has_system(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    return isinstance(first, dict) and first.get("role") in ("system", "developer")


class Handover(Response):
    """The response that another application gives to a request whose body has been read."""

    def __init__(self, app: ASGIApp, body: bytes) -> None:
        super().__init__()
        self._app = app
        self._read = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": self._read, "more_body": False}

        # The application notes in it what it is; the server's own notes stay as they are.
        await self._app(dict(scope), replay, send)
