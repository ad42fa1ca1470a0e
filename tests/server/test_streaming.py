"""Streams: progress while the search goes on, text as soon as it is settled, the same answer as without."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from typing import Any

import openai
import pytest

from preftilt.api import Realigner, Settings, run_sync
from preftilt.errors import EngineError
from preftilt.messages import Message
from preftilt.search import DVTS, BestOfN, Search
from preftilt.server import streaming
from preftilt.server.request_engine import NewTokens, RequestEngine
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference
from tests.server.odd import Odd
from tests.server.serving import QUESTION, WISH, Running, ask, serving

ASKED: dict[str, Any] = {"model": "toy", "messages": QUESTION, "extra_body": {"preftilt": WISH}}


def chunks(server: Running, **changes: Any) -> list[Any]:
    fields: dict[str, Any] = {**ASKED, "stream": True, **changes}
    with server.client() as client:
        return list(client.chat.completions.create(**fields))


def text(chunks: list[Any], index: int = 0) -> str:
    found = [one for chunk in chunks for one in chunk.choices if one.index == index]
    return "".join(one.delta.content or "" for one in found)


def progress(chunks: list[Any]) -> list[dict[str, Any]]:
    deltas = [one.delta for chunk in chunks for one in chunk.choices]
    return [one.preftilt for one in deltas if hasattr(one, "preftilt")]


@pytest.mark.parametrize(
    "model", ["toy", "toy:dvts-2x2", "toy:dvts-1x3", "toy:sample", "toy:greedy"]
)
@pytest.mark.parametrize("more", [{}, {"stop": "\n"}, {"n": 1, "logprobs": True}])
def test_a_stream_has_the_text_of_the_whole_answer(
    model: str, more: dict[str, Any], server: Running
) -> None:
    whole = ask(server, model=model, **more).json()
    got = chunks(server, model=model, **more)
    assert text(got) == whole["choices"][0]["message"]["content"]
    assert got[0].choices[0].delta.role == "assistant"
    ends = [one.finish_reason for chunk in got for one in chunk.choices if one.finish_reason]
    assert ends == [whole["choices"][0]["finish_reason"]]


def test_several_choices_stream_beside_each_other(server: Running) -> None:
    whole = ask(server, n=3).json()
    got = chunks(server, n=3)
    for choice in whole["choices"]:
        assert text(got, choice["index"]) == choice["message"]["content"]


@pytest.mark.parametrize("reduction", ["sum", "centred"])
def test_best_of_n_tells_of_every_candidate_before_the_text_comes(
    reduction: str, server: Running
) -> None:
    knob = WISH | {"details": True, "reduction": reduction}
    got = chunks(server, extra_body={"preftilt": knob})
    record = got[-1].preftilt
    told = [each for one in progress(got) for each in one.get("candidates", [])]
    fields = ("slot", "text", "finish", "question_logprob", "preference_gain", "score")
    scored = [one for one in told if "score" in one]
    assert sorted(one["slot"] for one in told if "score" not in one) == [0, 1, 2, 3]
    assert sorted([one[name] for name in fields] for one in scored) == sorted(
        [one[name] for name in fields] for one in record["candidates"]
    )
    first_text = next(
        i for i, one in enumerate(got) if one.choices and one.choices[0].delta.content
    )
    last_told = max(i for i, one in enumerate(got) if progress([one]))
    assert last_told < first_text


def test_a_tree_s_centred_scores_are_told_again_whenever_another_answer_joins_them(
    server: Running,
) -> None:
    knob = WISH | {"reduction": "centred", "search": {"name": "dvts", "subtrees": 3, "width": 2}}
    got = progress(chunks(server, extra_body={"preftilt": knob}))
    told = [one["candidates"] for one in got if "candidates" in one]
    scored = [each for each in told if "score" in each[0]]
    slots = [{one["slot"] for one in each} for each in scored]
    assert len(slots) > 1
    assert all(before <= after for before, after in itertools.pairwise(slots))
    roots = [[one["score"] * one["tokens"] ** 0.5 for one in each] for each in scored]
    assert all(sum(each) == pytest.approx(0, abs=1e-6) for each in roots)


def test_a_client_that_does_not_know_the_knob_gets_no_progress(server: Running) -> None:
    assert progress(chunks(server)) != []
    assert progress(chunks(server, extra_body=None)) == []
    assert progress(chunks(server, extra_body={"preftilt": WISH | {"progress": False}})) == []


def test_usage_comes_last_if_asked_for(server: Running) -> None:
    got = chunks(server, stream_options={"include_usage": True})
    assert [one.usage is not None for one in got] == [False] * (len(got) - 1) + [True]
    assert got[-1].choices == []
    assert got[-1].usage.model_dump() == ask(server).json()["usage"] | {
        "completion_tokens_details": None,
        "prompt_tokens_details": None,
    }


def test_plain_text_and_a_single_line_of_search_come_piece_by_piece() -> None:
    with serving(Odd(pause=0.01)) as server:
        for changes in ({"extra_body": None}, {"model": "toy:sample"}, {"model": "toy:dvts-1x2"}):
            for seed in range(20):
                got = chunks(server, seed=seed, **changes)
                pieces = [c.choices[0].delta.content for c in got if c.choices]
                if len([one for one in pieces if one]) > 1:
                    break
            else:
                pytest.fail(f"{changes}: no answer came in more than one piece")


@pytest.mark.parametrize("search", [DVTS(subtrees=1, width=2), DVTS(subtrees=2, width=2)])
def test_what_is_settled_is_how_the_answer_begins(search: Search) -> None:
    committed = 0
    for seed in range(60):
        seen: list[tuple[int, ...]] = []
        drawing = RequestEngine(ToyEngine(), lines=getattr(search, "subtrees", 0))

        def look(_: NewTokens, drawing: RequestEngine = drawing, seen: list = seen) -> None:
            seen.append(drawing.settled)

        drawing.tell = look
        settings = Settings(search=search, seed=seed, max_tokens=40, lam=3)
        result = run_sync(
            Realigner(drawing, settings).realign([Message("user", "Q?")], [Preference("x")])
        )
        best = result.candidates[0].tokens
        assert all(best[: len(one)] == one for one in seen)
        committed += any(seen)
    assert committed > 0


def test_a_deadline_that_is_not_reached_changes_no_token() -> None:
    for stops in ((), (".",), ("\n", "maths.")):
        whole, streamed = (
            RequestEngine(ToyEngine(), stops=stops, deadline=deadline)
            for deadline in (None, time.monotonic() + 100)
        )
        settings = Settings(search=BestOfN(n=8), max_tokens=60)
        one, two = (
            run_sync(Realigner(each, settings).realign([Message("user", "Q")], [Preference("x")]))
            for each in (whole, streamed)
        )
        assert [c.tokens for c in one.candidates] == [c.tokens for c in two.candidates]


def test_the_connection_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_SECONDS", 0.05)
    body = {"model": "toy", "messages": QUESTION, "preftilt": WISH, "stream": True}
    body["max_tokens"] = 6
    with serving(Odd(pause=0.2)) as server, server.http as http:
        reply = http.post("/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.splitlines() if line]
    assert lines.count(": working") >= 3
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith((":", "data: ")) for line in lines)


def test_a_failure_in_the_middle_is_the_last_event() -> None:
    with (
        serving(Odd(failure=EngineError("it broke"))) as server,
        pytest.raises(openai.APIError, match="it broke"),
    ):
        chunks(server)


def test_what_can_be_refused_is_refused_before_the_stream_begins(server: Running) -> None:
    said = ask(server, stream=True, n=100)
    assert said.status_code == 400
    assert said.headers["content-type"] == "application/json"


def test_completions_stream_too(server: Running) -> None:
    fields: dict[str, Any] = {"model": "toy", "prompt": ["read maths", "play"], "logprobs": 0}
    with server.client() as client:
        whole = client.completions.create(**fields)
        got = list(client.completions.create(**fields, stream=True))
    for index, choice in enumerate(whole.choices):
        parts = [chunk.choices[0] for chunk in got if chunk.choices[0].index == index]
        assert "".join(part.text for part in parts) == choice.text
        [told] = [part.logprobs for part in parts if part.logprobs is not None]
        assert told == choice.logprobs


def test_a_deadline_takes_the_best_finished_answer_so_far() -> None:
    async def late(search: Search) -> Any:
        drawing = RequestEngine(ToyEngine(), deadline=time.monotonic())
        settings = Settings(search=search, max_tokens=60, seed=4)
        asked = [Message("user", "Q?")], [Preference("x")]
        return drawing, await Realigner(drawing, settings).realign(*asked)

    for search in (BestOfN(n=16), DVTS(subtrees=3, width=2)):
        drawing, result = asyncio.run(late(search))
        assert drawing.late > 0
        assert all(len(one.tokens) == 1 for one in result.candidates)
        assert drawing.late >= sum(one.finish == "length" for one in result.candidates)


def test_a_deadline_in_the_middle_keeps_what_has_come_and_takes_the_best_finished_answer() -> None:
    for most in (4, 40):
        engine = Odd()
        drawing = RequestEngine(engine, deadline=math.inf)
        seen: list[int] = []

        def tell(
            news: NewTokens, most: int = most, seen: list = seen, view: RequestEngine = drawing
        ) -> None:
            seen.append(news.tokens)
            if len(seen) == most:
                view.deadline = time.monotonic()

        drawing.tell = tell
        settings = Settings(search=BestOfN(n=16), max_tokens=60, seed=4)
        asked = [Message("user", "Q?")], [Preference("x")]
        result = run_sync(Realigner(drawing, settings).realign(*asked))
        assert len(engine.requests) == 1
        assert sum(len(one.tokens) for one in result.candidates) == sum(seen)
        assert drawing.late == 16 - sum(one.finish == "eos" for one in result.candidates)
        absent = [note for note in result.notes if "no text" in note]
        assert len(absent) == (len(result.candidates) < 16)
    assert result.candidates[0].finish == "eos"


def test_a_deadline_is_told_in_the_record_and_in_the_metrics() -> None:
    with serving(Odd(pause=0.02)) as server:
        wish = WISH | {"deadline_s": 0.001, "details": True, "n": 16}
        said = ask(server, preftilt=wish, max_tokens=200).json()
        assert any("deadline of 0.001 s" in one for one in said["preftilt"]["notes"])
        assert server.metric("preftilt_late_total") == 1
        calm = ask(server, preftilt=wish | {"deadline_s": 60}).json()
        assert not any("deadline" in one for one in calm["preftilt"]["notes"])


def test_the_events_are_json_without_line_breaks_in_them(server: Running) -> None:
    body = {"model": "toy", "messages": QUESTION, "preftilt": WISH, "stream": True}
    with server.http as http:
        events = http.post("/v1/chat/completions", json=body).text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    for one in events:
        assert json.loads(one.removeprefix("data: "))["object"] == "chat.completion.chunk"
