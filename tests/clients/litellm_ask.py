"""Asks the server at ``argv[1]`` with LiteLLM, as :func:`tests.clients.asking.said_by` says: ``completion`` for a
conversation, ``text_completion`` for a text.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm  # pyright: ignore[reportMissingImports]
import openai


def ask(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """What came back."""
    chats = isinstance(request["input"], list)
    provider = "openai" if chats else "text-completion-openai"
    arguments: dict[str, Any] = {
        "model": f"{provider}/{request['model']}",
        "messages" if chats else "prompt": request["input"],
        "api_base": f"{url}/v1",
        "api_key": "none",
        "max_retries": 0,
        **request["settings"],
    }
    if "knob" in request:
        arguments["extra_body"] = {"preftilt": request["knob"]}
    if request["stream"]:
        arguments |= {"stream": True, "stream_options": {"include_usage": True}}
    call = litellm.completion if chats else litellm.text_completion
    try:
        reply = call(**arguments)
        replies = [part.model_dump() for part in (reply if request["stream"] else [reply])]
    except openai.APIStatusError as failure:
        return {"failure": {"status": failure.status_code, "message": str(failure)}}
    choices = [choice for part in replies for choice in part["choices"][:1]]
    return {
        "pieces": [_text(choice) for choice in choices],
        "usage": [part["usage"]["completion_tokens"] for part in replies if part.get("usage")],
        "finish": [choice["finish_reason"] for choice in choices if choice.get("finish_reason")],
    }


def _text(choice: dict[str, Any]) -> str:
    said = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
    return said.get("content") or ""


if __name__ == "__main__":
    print(json.dumps([ask(sys.argv[1], request) for request in json.loads(sys.argv[2])]))
