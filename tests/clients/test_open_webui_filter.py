"""The filter for Open WebUI, called as Open WebUI documents it: a stand-in, since the program itself is several GB.

It does what ``backend/open_webui/utils/filter.py`` does: the file is run by itself, the handlers get those of the extra
parameters that they name, the user's valves are an object in ``__user__``, and what ``inlet`` returns is sent on. What
comes back is a real answer of our server on the toy engine.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import QUESTION, Running, ask, serving

FILE = Path(__file__).parents[2] / "integrations" / "open_webui_filter.py"


@dataclass(slots=True)
class WebUI:
    """One user's Open WebUI with the filter installed."""

    valves: dict[str, Any] = field(default_factory=dict)
    user_valves: dict[str, Any] = field(default_factory=dict)
    old: bool = False
    said: list[dict[str, Any]] = field(default_factory=list)
    filter: Any = None

    def __post_init__(self) -> None:
        module: dict[str, Any] = {"__name__": "function_preftilt"}
        exec(compile(FILE.read_text("utf-8"), FILE.name, "exec"), module)
        self.filter = module["Filter"]()
        self.filter.valves = self.filter.Valves(**self.valves)

    async def call(self, name: str, first: dict[str, Any], **metadata: Any) -> dict[str, Any]:
        """A handler with the parameters that it names."""

        async def emit(event: dict[str, Any]) -> None:
            self.said.append(event)

        handler = getattr(self.filter, name)
        valves = self.user_valves if self.old else self.filter.UserValves(**self.user_valves)
        extra = {
            "__user__": {"id": "7b1c", "role": "user", "valves": valves},
            "__event_emitter__": emit,
            "__metadata__": {"chat_id": "c0ffee", **metadata},
            "__model__": {},
        }
        known = inspect.signature(handler).parameters
        key = "event" if name == "stream" else "body"
        return await handler(**{key: first}, **{k: v for k, v in extra.items() if k in known})


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": QUESTION, "stream": False, "seed": 5} | changes


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


WISH = {"preference": " No games. ", "strength": 4}


@pytest.mark.parametrize("old", [False, True])
async def test_every_user_has_a_preference_and_a_strength_of_their_own(old: bool):
    sent = await WebUI(user_valves=WISH, old=old).call("inlet", body(stream=True))
    assert sent["preftilt"] == {"preference": {"text": "No games.", "lambda": 4}, "progress": True}
    assert {name: sent[name] for name in body()} == body(stream=True)


async def test_the_administrator_s_search_stands_in_the_request():
    ui = WebUI(valves={"search": "best-of-n", "n": 6}, user_valves=WISH)
    knob = (await ui.call("inlet", body()))["preftilt"]
    assert knob["search"] == {"name": "best-of-n", "n": 6}
    assert not knob["progress"]


@pytest.mark.parametrize(
    ("ui", "request_body", "metadata"),
    [
        (WebUI(), body(), {}),
        (WebUI(user_valves={"preference": "  "}), body(), {}),
        (WebUI(user_valves=WISH), body(), {"task": "title_generation"}),
        (WebUI(valves={"models": "demo, smollm2"}, user_valves=WISH), body(), {}),
    ],
    ids=["never set", "empty", "in the background", "another model"],
)
async def test_a_request_without_a_preference_stays_as_it_was(
    ui: WebUI, request_body: dict[str, Any], metadata: dict[str, Any]
):
    assert await ui.call("inlet", request_body, **metadata) == body()
    assert ui.said == []


async def test_a_knob_that_is_there_already_counts():
    ui = WebUI(valves={"models": "to"}, user_valves=WISH)
    sent = await ui.call("inlet", body(preftilt={"preference": "Puns."}))
    assert sent["preftilt"]["preference"] == "Puns."


async def test_the_server_answers_as_it_does_to_the_object_itself(server: Running):
    sent = await WebUI(user_valves=WISH).call("inlet", body())
    wish = {"preference": {"text": "No games.", "lambda": 4}}
    want = ask(server, seed=5, preftilt=wish).json()["choices"]
    got = ask(server, **sent).json()["choices"]
    assert got == want
    assert got != ask(server, seed=5, preftilt=None).json()["choices"]


async def test_progress_is_told_as_events_and_taken_out_of_the_stream(server: Running):
    ui = WebUI(valves={"search": "best-of-n", "n": 4}, user_valves=WISH)
    sent = await ui.call("inlet", body(stream=True))
    with server.http as http:
        lines = http.post("/v1/chat/completions", json=sent).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    passed = [await ui.call("stream", chunk) for chunk in chunks]
    await ui.call("outlet", body())
    deltas = [choice["delta"] for chunk in passed for choice in chunk["choices"]]
    assert not [delta for delta in deltas if "preftilt" in delta]
    text = "".join(delta.get("content") or "" for delta in deltas)
    assert (
        text == ask(server, **{**sent, "stream": False}).json()["choices"][0]["message"]["content"]
    )
    told = [event["data"]["description"] for event in ui.said]
    assert told[0] == "following your preference, λ = 4"
    assert told[-1] == "followed your preference, λ = 4"
    assert any("tokens drawn, " in words for words in told)
    assert [event["data"]["done"] for event in ui.said] == [False] * (len(told) - 1) + [True]


async def test_a_user_who_wants_no_progress_sees_none():
    ui = WebUI(user_valves=WISH | {"show_progress": False})
    sent = await ui.call("inlet", body(stream=True))
    await ui.call("outlet", body())
    assert sent["preftilt"]["progress"] is False
    assert ui.said == []
