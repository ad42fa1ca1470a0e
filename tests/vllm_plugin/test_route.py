"""Which requests turn the knob, and that all others reach vLLM's route as they came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from preftilt.errors import BadInput
from preftilt.vllm_plugin.config import server_configs
from preftilt.vllm_plugin.route import ChatRouter

TURN = [{"role": "user", "content": "Hello"}]


def says(name: str) -> Any:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        return PlainTextResponse(f"{name} {request.url.path} ".encode() + body)

    return Route("/v1/chat/completions", endpoint, methods=["POST"])


def router(options: Any = None, names: tuple[str, ...] = ("demo", "other")) -> ChatRouter:
    """Between vLLM's route and an application for every name; each says who it is and what it was sent.

    vLLM has an adapter named tiny, too.
    """
    known = server_configs(names, options, {"tiny": None}.keys())
    apps: dict[str, ASGIApp] = {name: Starlette(routes=[says(name)]) for name in names}
    return ChatRouter(vllm_route=says("vLLM").app, apps=apps, configs=known)


def served(router: ChatRouter) -> TestClient:
    route = Route("/v1/chat/completions", router.__call__, methods=["POST"])
    return TestClient(Starlette(routes=[route]))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "demo", "messages": [{"role": "user", "content": "Hello"}],  "x":1 }',
        b'{"model": "demo", "messages": [], "preftilt": null}',
        b'{"model": "demo", "messages": [{"role": "user", "content": "what is preftilt?"}]}',
        b'{"model": "demo:latest"}',
        b'{"model": "tiny"}',
        b'{"model": "tiny:latest"}',
        b'{"model": "demo", "guidance_scale": 1, "negative_prompt": "Be loud."}',
        b'{"model": "demo", "guidance_scale": null, "negative_prompt": ""}',
        b'{"preftilt": ',
        b'["preftilt"]',
        b"",
        b"\xff",
    ],
)
def test_what_does_not_turn_the_knob_is_vllms_byte_for_byte(raw: bytes):
    reply = served(router()).post("/v1/chat/completions", content=raw)
    assert reply.content == b"vLLM /v1/chat/completions " + raw


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"model": "demo", "preftilt": {"preference": "x"}}, "demo"),
        ({"model": "other", "preftilt": {}}, "other"),
        ({"model": "lora", "preftilt": {}}, "demo"),
        ({"preftilt": {"preference": "x"}}, "demo"),
        ({"model": "demo:bon-16-l20"}, "demo"),
        ({"model": "other", "guidance_scale": 1.5}, "other"),
        ({"model": "other", "guidance_scale": "much"}, "other"),
        ({"model": "other", "negative_prompt": "Be loud."}, "other"),
        ({"model": "other:cfg-l2"}, "other"),
        ({"model": "other:calm"}, "other"),
        ({"model": "calm"}, "demo"),
        ({"model": "tiny", "preftilt": {"preference": "x"}}, "demo"),
        ({"model": "tiny:cfg-l2"}, "demo"),
    ],
    ids=str,
)
def test_whoever_turns_the_knob_is_answered_by_it(body: dict[str, Any], name: str):
    raw = json.dumps(body | {"messages": TURN}).encode()
    presets = {"presets": {"calm": {"preference": "Calm."}}}
    reply = served(router(presets)).post("/v1/chat/completions", content=raw)
    assert reply.content == f"{name} /v1/chat/completions ".encode() + raw


def test_a_word_of_ours_is_found_however_it_is_written():
    raw = b'{"model": "d\\u0065mo", "pref\\u0074ilt": {"preference": "x"}}'
    assert router().guided_model(raw) == "demo"


def test_the_system_message_is_the_preference_only_where_the_operator_says_so():
    system = json.dumps({"model": "demo", "messages": [{"role": "system", "content": "Be calm."}]})
    assert router().guided_model(system.encode()) is None
    stated = router({"preference_from": "system"})
    assert stated.guided_model(system.encode()) == "demo"
    assert stated.guided_model(json.dumps({"model": "demo", "messages": TURN}).encode()) is None
    assert stated.guided_model(system.replace("demo", "tiny").encode()) is None


def test_tools_are_ignored_only_where_the_operator_says_so():
    configs = server_configs(("demo",), {"ignore_tools": True})
    assert configs["demo"].ignore_tools
    assert not server_configs(("demo",), None)["demo"].ignore_tools


def test_the_operators_settings_are_every_names():
    options = {
        "preference_from": "system",
        "settings": {"lambda": 3},
        "presets": {"calm": {"preference": "Calm."}},
        "deadline": 2.5,
    }
    known = server_configs(("a", "b"), options)
    assert {config.model for config in known.values()} == {"a", "b"}
    for config in known.values():
        assert (config.settings.lam, config.preference_from, config.deadline_s) == (
            3,
            "system",
            2.5,
        )
        assert config.presets["calm"].wishes[0].text == "Calm."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"presetz": {}}, "presetz"),
        ({"preference_from": "user"}, "preference_from"),
        ({"presets": {"calm": {"preferenze": "x"}}}, "preferenze"),
        ({"settings": {"lambda": "much"}}, "lambda"),
        ({"presets": {"bon-4": {}}}, "cannot name a preset"),
        ({"presets": {"tiny": {}}}, "has the name of a LoRA adapter"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options: Any, words: str):
    with pytest.raises(BadInput, match=words):
        server_configs(("demo",), options, ["tiny"])
