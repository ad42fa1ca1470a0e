"""What vLLM calls when it starts: which vLLM is refused, and what the refusal says to do."""

from __future__ import annotations

import os

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from preftilt.vllm_plugin import entry
from preftilt.vllm_plugin.entry import CHAT, MODELS, RUNNER, Plugin, check_vllm


async def endpoint(request: Request) -> Response:
    return Response()


def route(path: str, method: str) -> Route:
    return Route(path, endpoint, methods=[method])


def test_a_vllm_without_endpoint_plugins_is_refused_where_the_plugin_is_named(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(entry, "find_spec", lambda _: None)
    monkeypatch.setenv("VLLM_PLUGINS", "other,preftilt")
    with pytest.raises(RuntimeError, match=r"install vLLM 0\.32 or newer"):
        check_vllm()
    for others in ("", "other", "preftilted"):
        monkeypatch.setenv("VLLM_PLUGINS", others)
        check_vllm()


def test_the_model_runner_is_v1_unless_the_user_chose_another(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "find_spec", lambda _: True)
    monkeypatch.setenv(RUNNER, "before the test")
    monkeypatch.delenv(RUNNER)
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    check_vllm()
    assert RUNNER not in os.environ
    monkeypatch.setenv("VLLM_PLUGINS", "preftilt")
    check_vllm()
    check_vllm()
    assert os.environ[RUNNER] == "0"
    monkeypatch.setenv(RUNNER, "1")
    with pytest.raises(RuntimeError, match=r"set VLLM_USE_V2_MODEL_RUNNER=0"):
        check_vllm()


@pytest.mark.parametrize(
    "routes",
    [
        [route(MODELS, "GET")],
        [route(MODELS, "GET"), route(CHAT, "GET")],
        [route(MODELS, "GET"), *[route(CHAT, "POST")] * 2],
        [route(CHAT, "POST")],
    ],
    ids=["no chat", "another method", "two", "no models"],
)
def test_a_vllm_whose_routes_are_not_the_known_ones_is_refused(routes: list[Route]):
    with pytest.raises(RuntimeError, match=r"newer than this preftilt knows"):
        Plugin().attach_router(Starlette(routes=routes))
