"""``python -m bench.serving [--quick]``: measure serving, print the table, save it; about half an hour on two cores.

It runs in the environment of ``make test-servers``; ``make bench-servers`` makes that, and the neighbours' own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.server import crowd
from bench.serving.engines import measure_engines
from bench.serving.peers import measure_peers
from bench.serving.proxy import measure_proxy
from bench.serving.replicas import measure_replicas
from bench.serving.report import PARTS, MeasuredPart, load, measured, save
from bench.serving.scoring import measure_scoring
from bench.serving.streams import measure_streams
from bench.serving.words import QuestionMaker

CLIENTS = 200
REPEATS = {
    "proxy": 9,
    "engines": 8,
    "peers": 4,
    "clients": 3,
    "scoring": 8,
    "replicas": 3,
    "streams": 4,
}
"""Values a figure: multiples of the sides, so that each begins equally often."""


def main() -> None:
    options = _options()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    command = _command(options)
    began = time.perf_counter()

    def say(words: str) -> None:
        print(f"{time.perf_counter() - began:6.0f} s  {words}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="preftilt-bench-") as folder:
        for name in options.parts:
            part = _measure(name, command, options, Path(folder), say)
            # Read again: another part may have been measured meanwhile.
            save(options.out, {**load(options.out), name: part})
    say(f"done; {options.out}/serving.md is written")
    print((options.out / "serving.md").read_text(encoding="utf-8"))


def _measure(
    name: str, command: str, options: argparse.Namespace, work: Path, say: Callable[[str], None]
) -> MeasuredPart:
    words = QuestionMaker(options.seed)
    repeats = 2 if options.quick else options.repeats or REPEATS[name]
    if name == "proxy":
        return measured(command, *measure_proxy(work, words, repeats, say))
    if name == "engines":
        return measured(command, *measure_engines(work, words, repeats, say))
    if name == "peers":
        return measured(command, *measure_peers(options.peers, work, words, repeats, say))
    if name == "scoring":
        return measured(command, *measure_scoring(work, words, repeats, say))
    if name == "replicas":
        return measured(command, *measure_replicas(work, words, repeats, say))
    if name == "streams":
        return measured(command, *measure_streams(work, words, repeats, say))
    say(f"clients: {CLIENTS} at once")
    return measured(command, [], {}, [crowd(CLIENTS) for _ in range(repeats)])


def _command(options: argparse.Namespace) -> str:
    """What measures the same again; where environments and files lie is left out."""
    words = ["python", "-m", "bench.serving", *(["--quick"] if options.quick else [])]
    words += [] if options.parts == list(PARTS) else ["--parts", *options.parts]
    words += [] if options.repeats is None else ["--repeats", str(options.repeats)]
    return shlex.join([*words, "--seed", str(options.seed)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two values a figure")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="measure these; the others stay as they were measured before",
    )
    parser.add_argument("--repeats", type=int, help=f"values a figure instead of {REPEATS}")
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(".venv-peers/bin/python"),
        help="the Python of the environment with its_hub and optillm",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/bench"))
    options = parser.parse_args()
    if "peers" in options.parts and not options.peers.is_file():
        parser.error(
            f"{options.peers} is not there: make bench-servers makes it, or leave the part out (--parts)"
        )
    return options


if __name__ == "__main__":
    main()
