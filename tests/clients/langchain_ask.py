"""Asks the server at ``argv[1]`` with LangChain, as :func:`tests.clients.asking.said_by` says: ``ChatOpenAI`` for a
conversation, ``OpenAI`` for a text.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from langchain_core.messages import BaseMessage  # pyright: ignore[reportMissingImports]
from langchain_openai import ChatOpenAI, OpenAI  # pyright: ignore[reportMissingImports]


def ask(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """What came back; of texts LangChain shows no more than the text."""
    chats = isinstance(request["input"], list)
    arguments = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0} | request["settings"]
    if "knob" in request:
        arguments["extra_body"] = {"preftilt": request["knob"]}
    if chats:
        arguments["stream_usage"] = True
    model = (ChatOpenAI if chats else OpenAI)(model=request["model"], **arguments)
    try:
        asked = request["input"]
        replies = [*model.stream(asked)] if request["stream"] else [model.invoke(asked)]
    except openai.APIStatusError as failure:
        return {"failure": {"status": failure.status_code, "message": str(failure)}}
    messages = [reply for reply in replies if isinstance(reply, BaseMessage)]
    if not messages:
        return {"pieces": replies}
    reasons = [message.response_metadata.get("finish_reason") for message in messages]
    return {
        "pieces": [message.content for message in messages],
        "usage": [part.usage_metadata["output_tokens"] for part in messages if part.usage_metadata],
        "finish": [reason for reason in reasons if reason],
    }


if __name__ == "__main__":
    print(json.dumps([ask(sys.argv[1], request) for request in json.loads(sys.argv[2])]))
