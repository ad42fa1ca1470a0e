"""How the server hands out the page, and the tokens' texts that the page asks for."""

from __future__ import annotations

import json
import re

import pytest

from preftilt.api import Settings
from preftilt.reward import Reward
from preftilt.server.app import PAGE
from tests.server.serving import WISH, Running, ask, serving


def test_every_file_that_the_page_names_is_served_and_nothing_is_inline(server: Running) -> None:
    with server.http as http:
        index = http.get("/")
        assert index.headers["content-type"].startswith("text/html")
        assert index.headers["cache-control"] == "no-cache"
        named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', index.text))
        assert {one.rpartition(".")[2] for one in named} == {"js", "css", "svg"}
        for one in named | {f"page/{file.name}" for file in PAGE.glob("*.js")}:
            assert http.get(f"/{one}").status_code == 200
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", index.text)


@pytest.mark.parametrize("reward", [Reward(), Reward(reduction="centred", cut_off="as-is")])
def test_the_form_begins_with_the_server_s_own_reduction_and_rule(reward: Reward) -> None:
    with serving(page=PAGE, settings=Settings(reward=reward)) as running, running.http as http:
        marked = re.findall(r'<option value="([^"]+)" selected>', http.get("/").text)
    assert marked == [reward.reduction, reward.cut_off]


def test_no_module_reads_html_or_names_another_host() -> None:
    for file in [*PAGE.glob("*.js"), *PAGE.glob("*.css"), PAGE / "index.html"]:
        text = file.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        hosts = set(re.findall(r"https?://[^\s\"')]+", text))
        assert hosts <= {"http://www.w3.org/2000/svg"}, file.name


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/chat/completions", "/page/no.js"])
def test_the_page_changes_no_other_path(server: Running, path: str) -> None:
    with server.http as http, serving() as bare, bare.http as other:
        assert http.get(path).status_code == other.get(path).status_code
        if not path.startswith("/page"):
            assert http.put(path).status_code == other.put(path).status_code


def test_pieces_are_the_texts_of_the_candidates_tokens(server: Running) -> None:
    record = ask(server, preftilt=WISH | {"pieces": True}).json()["preftilt"]
    assert len(record["pieces"]) == len(record["candidates"])
    for pieces, one in zip(record["pieces"], record["candidates"], strict=True):
        assert len(pieces) == len(one["tokens"])
        assert "".join(pieces).removesuffix("<end>") == one["text"]


def test_pieces_come_with_a_stream_too_and_only_if_asked_for(server: Running) -> None:
    streamed = ask(server, preftilt=WISH | {"pieces": True}, stream=True).text
    events = [line[6:] for line in streamed.splitlines() if line.startswith("data: {")]
    assert json.loads(events[-1])["preftilt"]["pieces"]
    record = ask(server, preftilt=WISH | {"details": True}).json()["preftilt"]
    assert "pieces" not in record


def test_pieces_without_a_preference_are_refused(server: Running) -> None:
    said = ask(server, preftilt={"pieces": True})
    assert said.status_code == 400
    assert "no preference" in said.json()["error"]["message"]
