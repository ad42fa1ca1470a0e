"""OpenAI's official client for Node.js works unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.asking import HERE, TALK, said_by_node
from tests.server.serving import QUESTION, WISH, Running, ask

BODY: dict[str, Any] = {"model": "toy", "messages": QUESTION, "preftilt": WISH | {"details": True}}


@pytest.mark.clients
def test_it_is_answered_with_the_knob_in_the_body(server: Running):
    said = said_by_node(server.url, BODY)
    want = ask(server).json()
    assert said["models"] == ["toy"]
    assert said["answer"]["choices"] == want["choices"]
    assert said["answer"]["usage"] == want["usage"]
    assert said["answer"]["preftilt"]["settings"]["lambda"] == 5


@pytest.mark.clients
def test_it_reads_a_stream(server: Running):
    said = said_by_node(
        server.url, BODY | {"stream": True, "stream_options": {"include_usage": True}}
    )
    chunks = said["chunks"]
    text = "".join(
        one["choices"][0]["delta"].get("content") or "" for one in chunks if one["choices"]
    )
    want = ask(server).json()
    assert text == want["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == want["usage"]
    assert chunks[-1]["preftilt"]["text"] == text


@pytest.mark.clients
def test_it_takes_the_knob_in_the_model_s_name(server: Running):
    said = said_by_node(server.url, BODY | {"model": "toy:bon-6-l2.5"})
    assert said["answer"]["preftilt"]["settings"]["lambda"] == 2.5
    assert said["answer"]["usage"]["preftilt"]["candidates"] == 6


@pytest.mark.clients
def test_names_nulls_and_both_kinds_of_system_messages_are_read(server: Running):
    said = said_by_node(server.url, BODY | {"messages": TALK})
    assert said["answer"]["choices"] == ask(server, messages=TALK).json()["choices"]


@pytest.mark.clients
def test_it_raises_its_own_errors(server: Running):
    failure = said_by_node(server.url, BODY | {"frequency_penalty": 0.5})["failure"]
    assert (failure["name"], failure["status"]) == ("BadRequestError", 400)
    assert failure["param"] == "frequency_penalty"


def test_its_packages_come_from_the_public_registry_and_are_pinned_by_their_hashes():
    lock = json.loads((HERE / "node" / "package-lock.json").read_text())
    packages = [one for path, one in lock["packages"].items() if path]
    assert packages
    for one in packages:
        assert one["resolved"].startswith("https://registry.npmjs.org/")
        assert one["integrity"].startswith("sha512-")
