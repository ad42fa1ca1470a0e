"""``python -m bench.vllm_plugin [--model demo]``: what guidance costs in the user's own ``vllm serve``.

Of one server with the plugin: 16 guided answers at once ÷ 16 plain ones, seconds a token, in turns; and what the logits
processor takes of a step with 64 groups of two. It runs in the environment of ``make test-servers``, on a machine that
does nothing else; a few minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import torch
from tools.servers.launch import start
from tools.servers.plugin import ROOT, installed

from preftilt.engines.bundled import DEMO
from preftilt.engines.lockstep.cards import MemberCard, MemberRow
from preftilt.engines.lockstep.rows import GroupedRows
from preftilt.engines.model_files import model_folder
from preftilt.types import Sampling

PREFERENCE = "I dislike anything that is loud or crowded."
QUESTION = "How can I make evening number {} more fun?"
GROUPS, VOCABULARY = 64, 49_152


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vllm_plugin", description=__doc__)
    parser.add_argument("--model", default=DEMO, help="hub id or folder, or a short name")
    parser.add_argument("--answers", type=int, default=16, help="at once")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    alone = {name: processor_seconds(how) for name, how in SAMPLINGS.items()}
    with tempfile.TemporaryDirectory(prefix="preftilt-bench-") as folder:
        path = [str(ROOT / "src"), str(installed(Path(folder) / "installed"))]
        server = start(
            "vllm",
            model_folder(options.model),
            Path(folder) / "vllm.log",
            flags=["--max-num-seqs", str(2 * GROUPS)],
            environment={"VLLM_PLUGINS": "preftilt", "PYTHONPATH": os.pathsep.join(path)},
        )
        try:
            ratios, plain, step = asyncio.run(served(server.url, options))
        finally:
            server.stop()
    print(f"{options.answers} plain answers: {1000 * plain:.2f} ms a token")
    print(
        f"guided ÷ plain: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"a step with {2 * GROUPS} rows: {1000 * step:.1f} ms")
    for name, seconds in alone.items():
        share = seconds / step
        print(
            f"the processor, {GROUPS} groups, {VOCABULARY} ids, {name}: {1000 * seconds:.1f} ms, {share:.1%}"
        )


SAMPLINGS = {
    "greedy": Sampling(temperature=0),
    "drawn": Sampling(),
    "drawn from a nucleus": Sampling(top_p=0.9),
}


def processor_seconds(sampling: Sampling, repeats: int = 15) -> float:
    """Seconds that one step's logits of :data:`GROUPS` groups of two take: the median."""
    rows = GroupedRows()
    members = [
        MemberCard(
            group=str(group),
            member=member,
            size=2,
            refusal=member,
            weights=(-1.0, 2.0),
            sampling=sampling,
            key=group,
            start=0,
            vocabulary=VOCABULARY,
        )
        for group in range(GROUPS)
        for member in range(2)
    ]
    rows.update([], [(row, MemberRow(card, ())) for row, card in enumerate(members)], [])
    logits = 3 * torch.randn(len(members), VOCABULARY, generator=torch.Generator().manual_seed(0))
    seconds: list[float] = []
    for _ in range(repeats):
        step_logits = logits.clone()
        began = time.perf_counter()
        rows.apply(step_logits)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def served(url: str, options: Any) -> tuple[list[float], float, float]:
    """Ratios guided ÷ plain, seconds a token of plain answers, and those of a step with all rows taken."""
    limits = httpx2.Limits(max_connections=2 * GROUPS)
    async with httpx2.AsyncClient(
        base_url=url, trust_env=False, timeout=1800, limits=limits
    ) as client:
        sides = (False, True)
        for guided in sides:
            await a_token(client, options.answers, options.tokens, guided=guided)
        measured: dict[bool, list[float]] = {False: [], True: []}
        for repeat in range(options.repeats):
            for guided in sides if repeat % 2 else reversed(sides):
                seconds = await a_token(client, options.answers, options.tokens, guided=guided)
                measured[guided].append(seconds)
        step = 2 * GROUPS * await a_token(client, 2 * GROUPS, options.tokens, guided=False)
    pairs = zip(measured[True], measured[False], strict=True)
    return [a / b for a, b in pairs], statistics.median(measured[False]), step


async def a_token(client: httpx2.AsyncClient, answers: int, tokens: int, *, guided: bool) -> float:
    """Seconds a token of so many answers at once."""
    bodies: list[dict[str, Any]] = [
        {
            "model": "demo",
            "messages": [{"role": "user", "content": QUESTION.format(number)}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        for number in range(answers)
    ]
    if guided:
        for body in bodies:
            body["preftilt"] = {"preference": PREFERENCE, "lambda": 2}
    began = time.perf_counter()
    replies = await asyncio.gather(
        *(client.post("/v1/chat/completions", json=body) for body in bodies)
    )
    seconds = time.perf_counter() - began
    return seconds / sum(reply.json()["usage"]["completion_tokens"] for reply in replies)


if __name__ == "__main__":
    main()
