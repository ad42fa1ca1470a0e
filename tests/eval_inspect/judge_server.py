"""A judge behind OpenAI's chat API, on a port of its own: stands in for an API judge, which cannot run here.

It answers by rule, so that every verdict is known: an answer is helpful if it is not blank, violates if it names the
"thing", acknowledges if it says "avoid". ``failures`` requests are refused first, with a server's error; every one that
brings another key than ``key``, if there is one. ``asked`` counts judgements, ``contacts`` questions whether it is
there.

    python -m tests.eval_inspect.judge_server      # prints its address and serves until it is interrupted
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from preftilt.eval.harness.judge import FIRST_QUESTION


@dataclass(slots=True)
class JudgeServer:
    """Counts its requests; ``prompts`` are what it was asked, in order of arrival."""

    failures: int = 0
    junk: bool = False
    address: str = ""
    key: str | None = None
    asked: int = 0
    contacts: int = 0
    prompts: list[str] = field(default_factory=list)

    def reply(self, prompt: str) -> str:
        """What the judge says to a prompt of PrefEval's checks."""
        if self.junk:
            return "I would rather not say."
        found = re.search(r"Answer: (.*?)\n\nReply in these", prompt, re.DOTALL)
        answer = found[1] if found else ""
        if "shows that it takes a preference" in prompt:
            quoted = next((one for one in answer.split(".") if "avoid" in one), "")
            return f"<preference>{quoted}</preference>\n<answer>{_word(quoted)}</answer>"
        if "violates the preference" in prompt:
            return (
                f"<explanation>By rule.</explanation>\n<answer>{_word('thing' in answer)}</answer>"
            )
        if "restates another preference" in prompt:
            return "<explanation>By rule.</explanation>\n<answer>No</answer>"
        return f"<explanation>By rule.</explanation>\n<answer>{_word(answer.strip())}</answer>"


@contextmanager
def served(judge: JudgeServer) -> Iterator[JudgeServer]:
    """The judge, listening on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(judge))
    judge.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(judge: JudgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # One connection a request: Inspect ends its event loop without closing those that are kept alive.
        protocol_version = "HTTP/1.0"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            if prompt == FIRST_QUESTION:
                judge.contacts += 1
            else:
                judge.asked += 1
            if judge.key is not None and self.headers["Authorization"] != f"Bearer {judge.key}":
                self._send(401, {"error": {"message": "no such key", "type": "invalid_key"}})
                return
            if judge.failures:
                judge.failures -= 1
                self._send(500, {"error": {"message": "out of order", "type": "server_error"}})
                return
            judge.prompts.append(prompt)
            self._send(200, _completion(body["model"], judge.reply(prompt)))

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

        def _send(self, status: int, data: dict[str, Any]) -> None:
            raw = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    return Handler


def _completion(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def _word(yes: object) -> str:
    return "Yes" if yes else "No"


if __name__ == "__main__":
    with served(JudgeServer()) as running:
        print(running.address, flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
