"""Best-of-16 with scores: our embedded engine against vLLM in a process of its own, on the same cores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.servers.launch import RECIPES

from bench.figures import CANDIDATES, MIDDLE, NEW_TOKENS
from bench.serving.endless import write_endless
from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed, SideProcess
from bench.serving.words import QuestionMaker

SIDES = ("transformers", "vllm")
WARM_UPS = 2


def measure_engines(
    work: Path, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[list[RatioRow], dict[str, str]]:
    """One row, and vLLM's version. While one process is asked the other waits, and uses nothing."""
    folder = write_endless(work / "endless")
    row = RatioRow(
        "engines",
        f"embedded transformers engine ÷ vLLM in its process: best-of-{CANDIDATES} with REAR scores,"
        f" {MIDDLE:,}-token question",
        2.0,
    )
    sides: dict[str, SideProcess] = {}
    opened: dict[str, Any] = {}
    try:
        for name in SIDES:
            say(f"engines: opening {name}")
            command = [sys.executable, "-m", "bench.serving.engine_side", f"{name}:{folder}"]
            # vLLM keeps a core free for a server's other processes unless it is told which it may have.
            cores = RECIPES["vllm"].environment if name == "vllm" else {}
            sides[name] = SideProcess(name, command, work / f"engine-{name}.log", cores)
            opened = sides[name].ready()
            for _ in range(WARM_UPS):
                _once(sides[name], words)
        for order in rotated(SIDES, repeats):
            took = {name: _once(sides[name], words) for name in order}
            say("engines: " + ", ".join(f"{name} {took[name]:.2f} s" for name in SIDES))
            row.add(took["transformers"], took["vllm"])
    finally:
        for side in sides.values():
            side.close()
    return [row], {"vllm": opened["versions"]["vllm"]}


def _once(side: SideProcess, words: QuestionMaker) -> float:
    question = words.question(MIDDLE)
    said = side.ask(question=question, seed=len(question))
    if said["drawn"] != CANDIDATES * NEW_TOKENS:
        raise SideFailed(f"{side.name} drew {said['drawn']} tokens")
    return said["seconds"]
