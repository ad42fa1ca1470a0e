"""``/v1/models`` of vLLM, where programs look for what they can ask: with presets, and what may be added to a name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from preftilt.engines.base import Capabilities
from preftilt.server.jsons import JsonReply
from preftilt.server.names import model_names
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
