"""The filter for Open WebUI, called as Open WebUI calls it: a stand-in, since the program itself is several GB.

``test_open_webui_itself.py`` is the same with the program.

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
from types import SimpleNamespace
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
    model: dict[str, Any] = field(default_factory=dict)
    said: list[dict[str, Any]] = field(default_factory=list)
    filter: Any = None

    def __post_init__(self) -> None:
        module: dict[str, Any] = {"__name__": "function_preftilt"}
        exec(compile(FILE.read_text("utf-8"), FILE.name, "exec"), module)
        self.filter = module["Filter"]()
        self.filter.valves = self.filter.Valves(**self.valves)
        self.filter.seconds_between = 0

    async def emit(self, event: dict[str, Any]) -> None:
        """Show a status."""
        self.said.append(event)

    async def call(
        self, name: str, first: dict[str, Any], emit: Any = None, **metadata: Any
    ) -> dict[str, Any]:
        """A handler with the parameters that it names."""
        handler = getattr(self.filter, name)
        valves = self.user_valves if self.old else self.filter.UserValves(**self.user_valves)
        extra = {
            "__user__": {"id": "7b1c", "role": "user", "valves": valves},
            "__event_emitter__": emit or self.emit,
            "__metadata__": {"chat_id": "c0ffee", **metadata},
            "__model__": self.model,
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
    assert all(event["data"]["done"] for event in ui.said)  # Or it would shimmer in a stopped chat.


async def test_progress_is_told_no_more_often_than_a_chat_can_be_rewritten_for_it():
    ui = WebUI(user_valves=WISH)
    ui.filter.seconds_between = 1e9

    async def emit_for_another(event: dict[str, Any]) -> None:
        await ui.emit(event)

    for emit in (ui.emit, emit_for_another):
        for sampled in (1, 2, 3):
            progress = {"phase": "sampling", "sampled": sampled, "scored": 0}
            chunk = {"choices": [{"delta": {"preftilt": progress}}]}
            assert await ui.call("stream", chunk, emit=emit) == {"choices": [{"delta": {}}]}
    told = [event["data"]["description"] for event in ui.said]
    assert told == ["sampling: 1 tokens drawn"] * 2


@pytest.mark.parametrize(
    ("strength", "number"), [(4, 4), ("4", 4), (" -1.5 ", -1.5), ("", None), (" ", None)]
)
async def test_a_strength_is_a_number_or_the_server_s_default(
    strength: float | str, number: float | None
):
    ui = WebUI(user_valves=WISH | {"strength": strength})
    preference = (await ui.call("inlet", body()))["preftilt"]["preference"]
    assert preference == {"text": "No games."} | ({} if number is None else {"lambda": number})
    await ui.call("outlet", body())
    ending = "" if number is None else f", λ = {number}"
    assert [event["data"]["description"] for event in ui.said] == [
        f"following your preference{ending}",
        f"followed your preference{ending}",
    ]


@pytest.mark.parametrize("strength", ["much", "nan", "inf", "1e999", "2,5"])
async def test_a_strength_that_is_no_number_is_refused_in_words(strength: str):
    ui = WebUI(user_valves=WISH | {"strength": strength})
    with pytest.raises(ValueError, match=f'must be a number such as 2, not "{strength}"; set it'):
        await ui.call("inlet", body())
    assert ui.said == []


@pytest.mark.parametrize("valves", [None, SimpleNamespace(preference="Puns.")])
async def test_settings_that_cannot_be_read_are_not_taken_for_none(valves: Any):
    """Open WebUI only tells its log, and leaves the valves out, or those of the filter before in their place."""
    user = {"id": "7b1c", "valves": valves} if valves else {"id": "7b1c"}
    with pytest.raises(ValueError, match="your settings cannot be read; set them anew"):
        await WebUI().filter.inlet(body(), user)


async def test_a_model_of_the_workspace_counts_as_that_which_it_builds_on():
    tutor = {"id": "tutor", "info": {"base_model_id": "toy"}}
    ui = WebUI(valves={"models": "demo, toy"}, user_valves=WISH, model=tutor)
    assert "preftilt" in await ui.call("inlet", body(model="tutor"))
    await ui.call("outlet", body(model="tutor"))
    assert len(ui.said) == 2


async def test_a_user_who_wants_no_progress_sees_none():
    ui = WebUI(user_valves=WISH | {"show_progress": False})
    sent = await ui.call("inlet", body(stream=True))
    await ui.call("outlet", body())
    assert sent["preftilt"]["progress"] is False
    assert ui.said == []
