"""Runs the programs of ``argv[1]``, a list in JSON, each by itself, and prints a list of what they print."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout


def printed(code: str) -> str:
    """What one program prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "example", "exec"), {"__name__": "__main__"})
    return out.getvalue()


if __name__ == "__main__":
    print(json.dumps([printed(code) for code in json.loads(sys.argv[1])]))
