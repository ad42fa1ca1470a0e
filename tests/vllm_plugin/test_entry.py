"""What vLLM calls when it starts: which vLLM is refused, and what the refusal says to do."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from preftilt.vllm_plugin import entry
from preftilt.vllm_plugin.entry import PATH, Plugin, check_vllm


async def endpoint(request: Request) -> Response:
    return Response()


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


@pytest.mark.parametrize(
    "routes",
    [
        [],
        [Route(PATH, endpoint, methods=["GET"])],
        [Route(PATH, endpoint, methods=["POST"])] * 2,
    ],
    ids=["none", "another method", "two"],
)
def test_a_vllm_whose_chat_route_is_not_the_known_one_is_refused(routes: list[Route]):
    with pytest.raises(RuntimeError, match=r"newer than this preftilt knows"):
        Plugin().attach_router(Starlette(routes=routes))
