"""What vLLM calls: a check in every process, and the plugin that adds the knob to the server."""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import asyncio
import logging
import os
from argparse import Namespace
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from preftilt.errors import BadInput, PreftiltError
from preftilt.vllm_plugin.route import ChatRouter, ModelsRoute

NAME = "preftilt"
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
NO_PAGE = Path(__file__).with_name("no page")
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
"""vLLM's switch between its model runners, of which V2 has no place for groups; vLLM chooses where it is not set."""
LOG = logging.getLogger("vllm.preftilt")


def check_vllm() -> None:
    """Refuse a vLLM that would start without the knob although it is asked for; called in each of its processes.

    vLLM's model runner V1 is chosen unless the user has chosen: the logits processor is one of V1.

    Raises :class:`RuntimeError`, which ends vLLM.
    """
    if NAME not in os.environ.get("VLLM_PLUGINS", "").split(","):
        return
    if not find_spec("vllm.plugins.endpoint_plugins"):
        raise RuntimeError(
            "preftilt: this vLLM has no endpoint plugins, which came with 0.26, so that no request could turn the knob:"
            " install vLLM 0.32 or newer, or leave preftilt out of VLLM_PLUGINS"
        )
    if RUNNER not in os.environ:
        os.environ[RUNNER] = "0"  # The processes that vLLM starts inherit it.
        # A warning, since vLLM hides all below one while it first loads plugins.
        LOG.warning("preftilt guides in vLLM's model runner V1, which is chosen: %s=0", RUNNER)
    if os.environ[RUNNER].strip() != "0":
        from preftilt.engines.lockstep.limits import NEEDS_V1

        raise RuntimeError(f"preftilt: {NEEDS_V1}")


class Plugin:
    """The endpoint plugin of one server (``vllm.plugins.endpoint_plugins``)."""

    name = NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._chat = ChatRouter(vllm_route=_nothing)
        self._models = ModelsRoute(vllm_route=_nothing)

    def attach_router(self, app: Any) -> None:
        """Put our routes in the place of vLLM's, which they hand other requests on to.

        Raises :class:`RuntimeError` if vLLM's are not there.
        """
        self._chat.vllm_route = _vllm_route(app, "POST", CHAT)
        self._models.vllm_route = _vllm_route(app, "GET", MODELS)
        _add(app, "POST", CHAT, self._chat.__call__, "Chat completions, with the preftilt object")
        _add(app, "GET", MODELS, self._models.__call__, "The models, with preftilt's presets")

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Measure the vLLM that has started, and open the knob on it.

        Raises :class:`RuntimeError` if it cannot guide, which ends vLLM.
        """
        try:
            await self._open(engine_client, state, args)
        except PreftiltError as failure:
            raise RuntimeError(f"preftilt: {failure}") from failure

    async def _open(self, client: Any, state: Any, args: Namespace) -> None:
        from prometheus_client import REGISTRY

        from preftilt.engines.lockstep.limits import unsupported
        from preftilt.server.admission_queue import AdmissionQueue
        from preftilt.server.app import create_app
        from preftilt.server.metrics import Metrics
        from preftilt.vllm_plugin.config import server_configs
        from preftilt.vllm_plugin.opening import open_client

        config = client.vllm_config
        reason = unsupported(config)
        if reason is not None:
            raise BadInput(reason)
        names = args.served_model_name or [args.model]
        additional = config.additional_config
        options = additional.get(NAME) if isinstance(additional, dict) else None
        adapters = state.openai_serving_models.lora_requests  # By name; vLLM changes it as it runs.
        configs = server_configs(names, options, adapters.keys())
        loop = asyncio.get_running_loop()
        engine = await asyncio.to_thread(open_client, client, loop, names[0], args)
        for fact in engine.info.facts:
            LOG.warning("preftilt: %s %s: %s", fact.question, fact.answer, fact.meaning)
        queue = AdmissionQueue(config.scheduler_config.max_num_seqs, 1 << 20)
        # vLLM shows this registry under /metrics, or the files of all processes that it counts in.
        metrics = Metrics(engine, REGISTRY)
        for name, served in configs.items():
            self._chat.apps[name] = create_app(
                engine, served, page=NO_PAGE, queue=queue, metrics=metrics
            )
        self._chat.configs = self._models.configs = configs
        self._models.capabilities = engine.capabilities


def _vllm_route(app: Any, method: str, path: str) -> ASGIApp:
    """vLLM's own route as an application; raises :class:`RuntimeError` unless there is exactly one."""
    routes = [
        route
        for route in app.routes
        if isinstance(route, Route) and route.path == path and method in (route.methods or ())
    ]
    if len(routes) != 1:
        raise RuntimeError(
            f"preftilt: vLLM has {len(routes)} routes for {method} {path} where one is expected; it is newer than this"
            " preftilt knows: install vLLM 0.32, or leave preftilt out of VLLM_PLUGINS"
        )
    return _through(routes[0])


def _add(
    app: Any,
    method: str,
    path: str,
    answer: Callable[[Request], Awaitable[Response]],
    summary: str,
) -> None:
    async def endpoint(request: Request) -> Response:
        return await answer(request)

    app.add_api_route(path, endpoint, methods=[method], summary=summary, response_model=None)


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
