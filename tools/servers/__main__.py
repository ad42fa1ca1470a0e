"""``python -m tools.servers vllm|sglang [--port 8000] [--model FOLDER] [-- more flags]``: a server until Ctrl-C."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from preftilt.engines.models import DEMO, model_folder
from tools.servers.launch import RECIPES, start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.servers", description=__doc__)
    parser.add_argument("kind", choices=sorted(RECIPES))
    parser.add_argument(
        "--model", default=DEMO, help="hub id or folder; the bundled model if left out"
    )
    parser.add_argument("--port", type=int, default=None, help="a free one if left out")
    parser.add_argument("flags", nargs="*", help="more flags for the server, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / f"{options.kind}.log"
        print(f"starting {options.kind}; its log: {log}", flush=True)
        server = start(
            options.kind, model_folder(options.model), log, flags=options.flags, port=options.port
        )
        print(f"{options.kind}+{server.url} answers; Ctrl-C ends it", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("stopping")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
