"""``docs/how-to/server.md`` and ``docs/reference/http-api.md`` say what is true of the server."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.main import get_command

from preftilt.cli.app import command_line
from preftilt.records.patch import SearchPatch, SettingsPatch
from preftilt.server.openapi import DOCUMENTED, STATUSES
from preftilt.server.wire import ChatBody, Knob
from tests.server.serving import Running

DOCS = Path(__file__).parents[2] / "docs"
TEXT = "\n".join(
    (DOCS / page).read_text("utf-8") for page in ("how-to/server.md", "reference/http-api.md")
)


def test_the_curl_call_works(server: Running) -> None:
    [body] = re.findall(r"-d '(\{.*?\})'", TEXT, re.DOTALL)
    with server.http as http:
        said = http.post("/v1/chat/completions", json=json.loads(body) | {"model": "toy"})
    assert said.status_code == 200


def test_every_flag_that_is_mentioned_exists() -> None:
    commands = get_command(command_line("serve", "ask")).commands  # type: ignore[attr-defined]
    known = {flag for one in ("serve", "ask") for p in commands[one].params for flag in p.opts}
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", TEXT)) <= known


def test_every_field_of_the_knob_and_every_status_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", TEXT))
    own = (
        Knob.model_fields.keys()
        - SettingsPatch.model_fields.keys()
        - SearchPatch.model_fields.keys()
    )
    assert own <= listed
    for name in ("n", "stop", "seed", "logprobs", "max_tokens"):
        assert name in ChatBody.model_fields
        assert name in listed
    for status in STATUSES.keys() - {403, 500}:
        assert re.search(rf"^\| .*\b{status}\b.* \|", TEXT, re.MULTILINE), status
    for path in DOCUMENTED:
        assert path.replace("/{name}", "/NAME").rpartition("/")[2] in TEXT
