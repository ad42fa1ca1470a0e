"""The list of models: vLLM's own cards, what they say of the knob, and the presets."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from preftilt.server.names import SUFFIXES, read_suffix
from preftilt.testing.toy import ToyEngine
from preftilt.vllm_plugin.config import server_configs
from preftilt.vllm_plugin.route import ModelsRoute

OWN = {"object": "model", "owned_by": "vllm", "max_model_len": 99}
CARDS = [OWN | {"id": "demo"}, OWN | {"id": "other"}, OWN | {"id": "tiny", "parent": "demo"}]


def listed(status: int = 200, *, opened: bool = True) -> tuple[int, Any]:
    """What the route answers over a vLLM with two names and an adapter that replies with ``status``."""

    async def models(request: Request) -> Response:
        body = {"object": "list", "data": CARDS} if status == 200 else {"error": {"code": status}}
        return JSONResponse(body, status)

    options = {"presets": {"calm": {"preference": "Calm.", "lambda": 3}}, "settings": {"lambda": 2}}
    route = ModelsRoute(Route("/v1/models", models).app)
    if opened:
        route.configs = server_configs(("demo", "other"), options)
        route.capabilities = ToyEngine().capabilities
    app = Starlette(routes=[Route("/v1/models", route.__call__)])
    reply = TestClient(app).get("/v1/models")
    return reply.status_code, reply.json()


def test_presets_stand_behind_their_model_and_every_card_says_what_it_stands_for():
    _, reply = listed()
    cards = {card["id"]: card for card in reply["data"]}
    assert [*cards] == ["demo", "demo:calm", "other", "other:calm", "tiny"]
    assert {card["max_model_len"] for card in reply["data"]} == {99}
    assert cards["demo"]["owned_by"] == "vllm"
    assert (cards["other:calm"]["parent"], cards["other:calm"]["owned_by"]) == ("other", "preftilt")
    assert cards["demo"]["preftilt"]["lambda"] == 2
    assert cards["demo:calm"]["preftilt"]["lambda"] == 3
    assert cards["demo:calm"]["preftilt"]["search"]["n"] == 1
    assert cards["tiny"] == CARDS[2]


def test_every_suffix_that_is_listed_can_be_asked_for():
    _, reply = listed()
    assert reply["data"][0]["preftilt"]["suffixes"] == [f"demo:{suffix}" for suffix in SUFFIXES]
    assert all(read_suffix(suffix) for suffix in SUFFIXES)


@pytest.mark.parametrize("status", [200, 401])
def test_what_is_not_to_be_added_to_is_vllms_own(status: int):
    known = {"object": "list", "data": CARDS} if status == 200 else {"error": {"code": status}}
    assert listed(status, opened=status != 200) == (status, known)
