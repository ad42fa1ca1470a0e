"""Asks the toy engine by the plugin for ``llm``: the command lines of ``argv[2]``; ``argv[1]`` is the folder of llm.

Prints for each what was said, its exit code, and the pieces that its text came in.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
os.environ |= {"LLM_USER_PATH": sys.argv[1], "LLM_LOAD_PLUGINS": ""}

from click.testing import CliRunner
from llm.cli import cli  # pyright: ignore[reportMissingImports]
from llm.plugins import pm  # pyright: ignore[reportMissingImports]

from preftilt import llm_plugin
from preftilt.engines import open as opening
from preftilt.testing.toy import ToyEngine


def ask(words: list[str]) -> dict[str, Any]:
    """One command line."""
    pieces: list[str] = []
    whole = llm_plugin.RealignedModel.execute

    def counted(self: Any, *values: Any, **named: Any) -> Any:
        for piece in whole(self, *values, **named):
            pieces.append(piece)
            yield piece

    llm_plugin.RealignedModel.execute = counted
    sys.argv = ["llm", *words]
    try:
        done = CliRunner().invoke(cli, words)
    finally:
        llm_plugin.RealignedModel.execute = whole
    return {"code": done.exit_code, "said": done.output, "pieces": pieces}


if __name__ == "__main__":
    opening.open_engine = lambda spec, options=None: ToyEngine(model=spec or "toy")
    pm.register(llm_plugin)
    pm.hook.register_commands(cli=cli)
    asked = [ask(words) for words in json.loads(sys.argv[2])]
    print(json.dumps({"asked": asked}))
