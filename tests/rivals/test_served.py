"""Reward models behind servers. A stand-in speaks the routes of vLLM and SGLang: the real ones need minutes to start.

Its score of a sequence is a plain formula over its token ids, so every answer can be told from the request alone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import preftilt as pt
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.messages import Message
from preftilt.rivals.reward_models import open_reward_model
from tests.engine.models import VOCABULARY
from tests.rivals.models import TEMPLATE, tokenizer_with_bos

pytestmark = pytest.mark.model

CONVERSATION = [Message("system", "No games."), Message("user", "A or B?")]


def formula(tokens: list[int]) -> float:
    return sum((i + 1) * token for i, token in enumerate(tokens)) / 1000 - 2


@dataclass(slots=True)
class Box:
    """The stand-in: its ``routes``, what it was sent, and how it answers."""

    routes: frozenset[str]
    folder: str
    outputs: int = 1
    fails: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        scores = [formula(body.get("input") or body["input_ids"])] * self.outputs
        if "input_ids" in body:
            return {"embedding": scores, "meta_info": {}}
        if path == "/classify":
            return {"data": [{"index": 0, "label": "x", "probs": scores}]}
        return {"data": [{"index": 0, "data": [[0.0], [0.0], scores]}]}


def handler(box: Box) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            model = {"id": "rm", "root": box.folder, "max_model_len": 100}
            self._send(200, {"data": [model]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            box.keys.append(self.headers.get("authorization"))
            if self.path not in box.routes:
                self._send(404, {"error": {"message": "no such route"}})
            elif box.fails and box.bodies:
                self._send(500, {"error": {"message": "it broke"}})
            else:
                box.bodies.append(body)
                self._send(200, box.answer(self.path, body))

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


Start = Callable[..., Box]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[ThreadingHTTPServer] = []
    tokenizer_with_bos(TEMPLATE).save_pretrained(tmp_path)

    def start(*routes: str, **changes: Any) -> Box:
        box = Box(frozenset(routes), str(tmp_path), **changes)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(box))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        box.url = f"http://127.0.0.1:{server.server_port}"
        return box

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("kind", "route"),
    [("vllm", "/classify"), ("vllm", "/pooling"), ("sglang", "/classify")],
)
def test_the_ids_of_the_model_s_own_template_are_sent_and_the_score_comes_back(
    kind: str, route: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTILT_REWARD_API_KEY", "hush")
    monkeypatch.setenv("PREFTILT_API_KEY", "the other server's")
    box = start(route)
    model = open_reward_model(f"{kind}+{box.url}")
    texts = ["A", "B, rather", "A and B"]
    rated = pt.run_sync(model.score([(CONVERSATION, text) for text in texts]))
    model.close()
    tokenizer = tokenizer_with_bos(TEMPLATE)
    rows = [
        tokenizer.encode(f"<system>No games.<|end|><user>A or B?<|end|><assistant>{text}<|end|>")
        for text in texts
    ]
    assert all(row[0] == VOCABULARY and row[1] != VOCABULARY for row in rows)
    assert rated.scores == pytest.approx([formula(row) for row in rows])
    assert rated.tokens == sum(len(row) for row in rows)
    assert set(box.keys) == {"Bearer hush"}
    if kind == "vllm":
        assert all(body["use_activation"] is False for body in box.bodies)
        assert all(body["add_special_tokens"] is False for body in box.bodies)
    assert model.versions["route"] == route


def test_what_does_not_fit_is_not_sent(start: Start) -> None:
    box = start("/classify")
    model = open_reward_model(f"vllm+{box.url}")
    sent = len(box.bodies)
    rated = pt.run_sync(model.score([(CONVERSATION, "x" * 200), (CONVERSATION, "A")]))
    assert rated.scores[0] is None
    assert rated.scores[1] is not None
    assert len(box.bodies) == sent + 1
    with pytest.raises(PromptTooLong):
        model.check([Message("user", "x" * 100)])
    model.close()


def test_a_server_that_gives_several_numbers_is_no_reward_model(start: Start) -> None:
    box = start("/classify", outputs=2)
    with pytest.raises(BadInput, match="/classify gives 2 numbers"):
        open_reward_model(f"vllm+{box.url}")


def test_a_server_without_the_route_is_refused(start: Start) -> None:
    with pytest.raises(BadInput, match="serves no reward model"):
        open_reward_model(f"sglang+{start('/generate').url}")


def test_a_failure_is_an_error_and_no_score(start: Start) -> None:
    model = open_reward_model(f"vllm+{start('/classify', fails=True).url}")
    with pytest.raises(EngineError, match="it broke"):
        pt.run_sync(model.score([(CONVERSATION, "A")]))
    model.close()


def test_a_tokenizer_that_cannot_be_found_is_asked_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    box = start("/classify")
    folder, box.folder = box.folder, "nobody/has-this"
    with pytest.raises(BadInput, match="--reward-tokenizer"):
        open_reward_model(f"vllm+{box.url}", EngineOptions(tokenizer="./nowhere"))
    model = open_reward_model(f"vllm+{box.url}", EngineOptions(tokenizer=folder))
    model.close()
