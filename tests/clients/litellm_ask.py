"""Asks the server at ``argv[1]`` with LiteLLM, once for every object of the JSON list ``argv[2]``: the arguments of
``completion``. Prints a list of what came back, as JSON.

It runs in an environment of its own (requirements/clients.txt): LiteLLM wants another ``openai`` than we test with.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm  # pyright: ignore[reportMissingImports]


def ask(url: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The answer, the chunks of a stream, or the failure."""
    asked = {"api_base": f"{url}/v1", "api_key": "none", "max_retries": 0} | arguments
    try:
        answer = litellm.completion(**asked)
        if asked.get("stream"):
            return {"chunks": [one.model_dump() for one in answer]}
        return {"answer": answer.model_dump()}
    except litellm.exceptions.BadRequestError as failure:
        words = {"name": type(failure).__name__, "message": str(failure)}
        return {"failure": words | {"status": failure.status_code}}


if __name__ == "__main__":
    found = [ask(sys.argv[1], arguments) for arguments in json.loads(sys.argv[2])]
    print(json.dumps(found, default=str))
