"""Asks the server at ``argv[1]`` with LlamaIndex, as :func:`tests.clients.asking.said_by` says: ``OpenAILike`` chats
with a conversation, and completes a text.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
from llama_index.core.llms import ChatMessage  # pyright: ignore[reportMissingImports]
from llama_index.llms.openai_like import OpenAILike  # pyright: ignore[reportMissingImports]


def ask(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """What came back."""
    asked, stream, chats = request["input"], request["stream"], isinstance(request["input"], list)
    more = dict(request["settings"])
    temperature = more.pop("temperature")
    if "knob" in request:
        more["extra_body"] = {"preftilt": request["knob"]}
    if stream:
        more["stream_options"] = {"include_usage": True}
    model = OpenAILike(
        model=request["model"],
        api_base=f"{url}/v1",
        api_key="none",
        max_retries=0,
        is_chat_model=chats,
        temperature=temperature,
        additional_kwargs=more,
    )
    if chats:
        asked = [_message(**message) for message in asked]
        call = model.stream_chat if stream else model.chat
    else:
        call = model.stream_complete if stream else model.complete
    try:
        replies = [*call(asked)] if stream else [call(asked)]
    except openai.APIStatusError as failure:
        return {"failure": {"status": failure.status_code, "message": str(failure)}}
    whole = (lambda reply: reply.message.content) if chats else (lambda reply: reply.text)
    raw = [reply.raw for reply in replies]
    reasons = [choice.finish_reason for part in raw for choice in part.choices[:1]]
    return {
        "pieces": [(reply.delta if stream else whole(reply)) or "" for reply in replies],
        "usage": [part.usage.completion_tokens for part in raw if part.usage],
        "finish": [reason for reason in reasons if reason],
    }


def _message(role: str, content: str | None, **more: Any) -> ChatMessage:
    return ChatMessage(role=role, content=content, additional_kwargs=more)


if __name__ == "__main__":
    print(json.dumps([ask(sys.argv[1], request) for request in json.loads(sys.argv[2])]))
