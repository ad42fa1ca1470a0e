"""What the page asks about an answer: the likeliest tokens at a place, what carries it, and how else it might go on."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from preftilt.ablation import measure_influence
from preftilt.api import Realigner, run_sync
from preftilt.messages import Message
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference
from tests.server.odd import Odd
from tests.server.serving import QUESTION, WISH, Running, ask, serving


def post(running: Running, path: str, **changes: Any) -> httpx2.Response:
    body = {"model": "toy", "messages": QUESTION, "preftilt": WISH} | changes
    with running.http as http:
        return http.post(f"/v1/preftilt/{path}", json=body)


def record_of(running: Running, **knob: Any) -> dict[str, Any]:
    said = ask(running, preftilt=WISH | {"details": True} | knob, seed=3)
    assert said.status_code == 200, said.text
    return said.json()["preftilt"]


def test_the_tokens_of_an_answer_have_the_logprobs_that_its_record_has(server: Running) -> None:
    [answer] = record_of(server, search="sample")["candidates"]
    for t, token in enumerate(answer["tokens"]):
        prefix = {"prefix": answer["tokens"][:t]} if t else {}
        told = post(
            server, "alternatives", preftilt=WISH | {"lambda": 2} | prefix, count=2, token=token
        ).json()
        assert told["object"] == "preftilt.alternatives"
        assert (told["position"], told["weights"]) == (t, {"question": -1, "full": 2})
        [stands] = [row for row in told["tokens"] if row["token"] == token]
        assert stands["logprobs"] == pytest.approx(
            {name: row[t] for name, row in answer["logprobs"].items()}
        )
        assert stands["ends"] is (token == 0)


@pytest.mark.parametrize("search", ["sample", {"name": "cfg", "greedy": True}])
def test_an_answer_goes_on_from_another_token(server: Running, search: Any) -> None:
    [answer] = record_of(server, search=search)["candidates"]
    told = post(server, "alternatives", preftilt=WISH | {"prefix": answer["tokens"][:1]}).json()
    other = next(
        row["token"]
        for row in told["tokens"]
        if row["token"] != answer["tokens"][1] and not row["ends"]
    )
    prefix = [answer["tokens"][0], other]
    record = record_of(server, search=search, prefix=prefix)
    assert record["candidates"][0]["tokens"][:2] == prefix
    assert record["settings"]["prefix"] == prefix
    assert record["usage"]["scored"] == {"question": 2, "full": 2} | (
        {"question": len(record["candidates"][0]["tokens"])} if search == "sample" else {}
    )


def test_a_streamed_answer_begins_with_its_prefix(server: Running) -> None:
    prefix = [5, 10, 5]
    request = {"preftilt": WISH | {"prefix": prefix, "search": "sample"}, "seed": 4}
    whole = ask(server, **request).json()["choices"][0]["message"]["content"]
    streamed = ask(server, **request, stream=True).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    choices = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in choices) == whole
    arrived = [
        candidate
        for delta in choices
        for candidate in delta.get("preftilt", {}).get("candidates", ())
    ]
    assert {candidate["text"] for candidate in arrived} == {whole}


def test_the_cost_of_a_prefix_is_told_and_holds(server: Running) -> None:
    knob = WISH | {"prefix": [5, 10, 5], "n": 3}
    told = post(server, "cost", preftilt=knob, max_tokens=10).json()
    usage = ask(server, preftilt=knob, max_tokens=10).json()["usage"]["preftilt"]
    assert told["at_most"] == {"sampled": 21, "scored": 21 + 6}
    assert usage["sampled"] <= 21
    assert sum(usage["scored"].values()) <= 27


def test_influence_over_http_is_that_of_the_library(server: Running) -> None:
    wish = "I dislike games. I like music."
    told = post(server, "influence", preftilt={"preference": wish}, response="draw maths").json()
    work = measure_influence(
        Realigner(ToyEngine()),
        [Message("user", QUESTION[0]["content"])],
        [Preference(wish)],
        response="draw maths",
    )
    assert told == json.loads(json.dumps(run_sync(work).to_json()))
    assert len(told["sentences"]) == 2


def test_models_say_what_their_engine_can_do(server: Running) -> None:
    with server.http as http:
        card = http.get("/v1/models/toy").json()["preftilt"]
    assert (card["guides"], card["alternatives"]) == (True, True)
    with serving(Odd()) as running, running.http as http:
        card = http.get("/v1/models/toy").json()["preftilt"]
    assert (card["guides"], card["alternatives"]) == (False, False)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no preference": ("alternatives", {"preftilt": None}, "no preference"),
    "an ended prefix": ("alternatives", {"preftilt": WISH | {"prefix": [5, 0]}}, "end-of-turn"),
    "an unknown token": ("alternatives", {"token": 77}, "not in the vocabulary"),
    "too many": ("alternatives", {"count": 101}, "100"),
    "nothing to explain": ("influence", {}, "response"),
    "a prefix of a whole": (
        "influence",
        {"preftilt": WISH | {"prefix": [5]}, "response": "draw"},
        "leave the prefix out",
    ),
    "nothing to leave out": (
        "influence",
        {"preftilt": None, "response": "draw"},
        "nothing to leave out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str, server: Running) -> None:
    path, changes, words = REFUSED[name]
    said = post(server, path, **changes)
    assert said.status_code == 400, said.text
    assert words in said.json()["error"]["message"]


def test_an_engine_that_cannot_tell_its_likeliest_tokens_is_refused() -> None:
    with serving(Odd()) as running:
        said = post(running, "alternatives")
    assert said.status_code == 400
    assert "does not tell its likeliest next tokens" in said.json()["error"]["message"]


def test_a_prefix_without_a_preference_is_refused(server: Running) -> None:
    said = ask(server, preftilt={"prefix": [5]})
    assert said.status_code == 400
    assert "no preference" in said.json()["error"]["message"]
