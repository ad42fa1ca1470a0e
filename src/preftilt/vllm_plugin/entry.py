"""What vLLM calls: a check in every process, and the plugin that adds the knob to the server."""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from preftilt.errors import BadInput, PreftiltError
from preftilt.vllm_plugin.route import ChatRouter

NAME = "preftilt"
PATH = "/v1/chat/completions"
NO_PAGE = Path(__file__).with_name("no page")


def check_vllm() -> None:
    """Refuse a vLLM that would start without the knob although it is asked for; called in each of its processes.

    Raises :class:`RuntimeError`, which ends vLLM.
    """
    if NAME in os.environ.get("VLLM_PLUGINS", "").split(",") and not find_spec(
        "vllm.plugins.endpoint_plugins"
    ):
        raise RuntimeError(
            "preftilt: this vLLM has no endpoint plugins, which came with 0.26, so that no request could turn the knob:"
            " install vLLM 0.32 or newer, or leave preftilt out of VLLM_PLUGINS"
        )


class Plugin:
    """The endpoint plugin of one server (``vllm.plugins.endpoint_plugins``)."""

    name = NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._router = ChatRouter(vllm_route=_nothing)

    def attach_router(self, app: Any) -> None:
        """Put our route in the place of vLLM's, which it hands other requests on to.

        Raises :class:`RuntimeError` if vLLM's is not there.
        """
        routes = [
            route
            for route in app.routes
            if isinstance(route, Route) and route.path == PATH and "POST" in (route.methods or ())
        ]
        if len(routes) != 1:
            raise RuntimeError(
                f"preftilt: vLLM has {len(routes)} routes for POST {PATH} where one is expected; it is newer than this"
                " preftilt knows: install vLLM 0.32, or leave preftilt out of VLLM_PLUGINS"
            )
        self._router.vllm_route = _through(routes[0])
        endpoint = self._router.__call__

        async def chat_completions(request: Request) -> Response:
            return await endpoint(request)

        app.add_api_route(
            PATH,
            chat_completions,
            methods=["POST"],
            summary="Chat completions, with the preftilt object",
            response_model=None,
        )

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Measure the vLLM that has started, and open the knob on it.

        Raises :class:`RuntimeError` if it cannot guide, which ends vLLM.
        """
        try:
            await self._open(engine_client, args)
        except PreftiltError as failure:
            raise RuntimeError(f"preftilt: {failure}") from failure

    async def _open(self, client: Any, args: Namespace) -> None:
        from preftilt.engines.lockstep.limits import unsupported
        from preftilt.server.admission_queue import AdmissionQueue
        from preftilt.server.app import create_app
        from preftilt.vllm_plugin.config import server_configs
        from preftilt.vllm_plugin.opening import open_client

        config = client.vllm_config
        reason = unsupported(config)
        if reason is not None:
            raise BadInput(reason)
        names = args.served_model_name or [args.model]
        additional = config.additional_config
        options = additional.get(NAME) if isinstance(additional, dict) else None
        self._router.configs = server_configs(names, options)
        loop = asyncio.get_running_loop()
        engine = await asyncio.to_thread(open_client, client, loop, names[0], args)
        queue = AdmissionQueue(config.scheduler_config.max_num_seqs, 1 << 20)
        for name, served in self._router.configs.items():
            self._router.apps[name] = create_app(engine, served, page=NO_PAGE, queue=queue)


def _through(route: Route) -> ASGIApp:
    """The application that is vLLM's own route."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match, matched = route.matches(scope)
        assert match is Match.FULL
        scope.update(matched)
        await route.handle(scope, receive, send)

    return app


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("preftilt: the plugin has not been attached")
