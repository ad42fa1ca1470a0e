"""``python -m bench.vllm_plugin``: what guidance costs in the user's own vLLM; writes docs/bench/vllm-plugin.md.

It runs in the environment of ``make test-servers``, on a machine that does nothing else. A part (guided ÷ plain, with ÷
without the plugin, the processor's share) takes one to three minutes, most of it vLLM's start; each can be run alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import torch
from tools.servers.launch import Server, start
from tools.servers.plugin import ROOT, installed

from bench.limits import Figure, Say, measure_parts, ratios
from preftilt.engines.lockstep.member_params import MemberParams, MemberRow
from preftilt.engines.lockstep.rows import GroupedRows
from preftilt.engines.models import DEMO, SMOLLM2, model_folder
from preftilt.types import Sampling

PREFERENCE = "I dislike anything that is loud or crowded."
QUESTION = "How can I make evening number {} more fun?"
ANSWERS, TOKENS, REPEATS = 16, 24, 7
GROUPS, VOCABULARY, STEPS, STEP_REPEATS = 64, 49_152, (8, 32), 3

INTRODUCTION = f"""\
Medians of n values, with the least and the greatest, of `vllm serve` in float32 on a CPU. The two sides of a ratio are
measured in turns, right after each other; a value is one turn.

- **Guided ÷ plain**: {ANSWERS} guided answers at once ÷ {ANSWERS} plain ones to the same questions, on one server, in
  seconds a token of the answers, {TOKENS} tokens each. A guided answer has two rows of the batch.
- **With ÷ without**: {ANSWERS} plain answers a second on a server with `VLLM_PLUGINS=preftilt` and on one without
  preftilt; both are up, and one at a time is asked.
- **The processor's share**: the time that the logits processor takes for {GROUPS} groups of two rows and {VOCABULARY:,}
  ids, in this process, ÷ a step of that server with {2 * GROUPS} plain rows: the time of answers of {STEPS[1]} tokens
  less that of {STEPS[0]}, a token.
"""

SAMPLINGS = {
    "greedy": Sampling(temperature=0),
    "drawn": Sampling(),
    "drawn from a nucleus": Sampling(top_p=0.9),
}


@contextmanager
def serving(model: str, *, plugin: bool = True, rows: int = 64) -> Iterator[Server]:
    """``vllm serve`` with preftilt installed beside it, or without."""
    with tempfile.TemporaryDirectory(prefix="preftilt-bench-") as folder:
        path = [str(ROOT / "src"), str(installed(Path(folder) / "installed"))]
        environment = {"VLLM_PLUGINS": "preftilt", "PYTHONPATH": os.pathsep.join(path)}
        server = start(
            "vllm",
            model_folder(model),
            Path(folder) / "vllm.log",
            flags=["--max-num-seqs", str(rows)],
            environment=environment if plugin else {"VLLM_PLUGINS": "", "PYTHONPATH": ""},
        )
        try:
            yield server
        finally:
            server.stop()


async def a_token(url: str, answers: int, tokens: int, *, guided: bool = False) -> float:
    """Seconds a token of so many answers at once; plain ones do not end before."""
    bodies: list[dict[str, Any]] = [
        {
            "model": "demo",
            "messages": [{"role": "user", "content": QUESTION.format(number)}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        | (
            {"preftilt": {"preference": PREFERENCE, "lambda": 2}}
            if guided
            else {"ignore_eos": True}
        )
        for number in range(answers)
    ]
    limits = httpx2.Limits(max_connections=answers)
    async with httpx2.AsyncClient(
        base_url=url, trust_env=False, timeout=1800, limits=limits
    ) as client:
        began = time.perf_counter()
        replies = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=body) for body in bodies)
        )
        seconds = time.perf_counter() - began
    return seconds / sum(
        reply.raise_for_status().json()["usage"]["completion_tokens"] for reply in replies
    )


def in_turns(first: Any, second: Any, repeats: int = REPEATS) -> tuple[list[float], list[float]]:
    """What two measurements give, each a function of nothing, in turns; both are run once before, uncounted."""
    values: tuple[list[float], list[float]] = ([], [])
    sides = (first, second)
    for side in sides:
        side()
    for repeat in range(repeats):
        for index in (0, 1) if repeat % 2 else (1, 0):
            values[index].append(sides[index]())
    return values


def guided(model: str, say: Say) -> list[Figure]:
    """Guided answers beside plain ones on the same server."""
    with serving(model) as server:
        plain, bent = in_turns(
            lambda: asyncio.run(a_token(server.url, ANSWERS, TOKENS)),
            lambda: asyncio.run(a_token(server.url, ANSWERS, TOKENS, guided=True)),
        )
        doubled = [asyncio.run(a_token(server.url, 2 * ANSWERS, TOKENS)) * 2 for _ in range(3)]
    say(f"{model}: {statistics.median(ratios(bent, plain)):.2f}")
    return [
        Figure(
            f"{model}: {ANSWERS} guided ÷ {ANSWERS} plain answers", 1.3, "×", ratios(bent, plain)
        ),
        Figure(
            f"{model}: {2 * ANSWERS} ÷ {ANSWERS} plain answers, seconds a step: twice the rows alone",
            None,
            "×",
            [seconds / statistics.median(plain) for seconds in doubled],
        ),
        Figure(
            f"{model}: a step of {ANSWERS} plain answers",
            None,
            "ms",
            [1000 * ANSWERS * seconds for seconds in plain],
        ),
    ]


def plugin(model: str, say: Say) -> list[Figure]:
    """Plain answers of a server with the plugin beside one without it."""
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(model, plugin=known)) for known in (False, True)]
        first, second = (
            partial(lambda url: asyncio.run(a_token(url, ANSWERS, TOKENS)), server.url)
            for server in servers
        )
        without, with_it = in_turns(first, second)
    say(f"{model}: {statistics.median(ratios(with_it, without)):.2f}")
    title = f"{model}: {ANSWERS} plain answers with the plugin ÷ without it, seconds a token"
    return [Figure(title, 1.1, "×", ratios(with_it, without))]


def processor(model: str, say: Say) -> list[Figure]:
    """The processor alone, and a step of the model with as many rows."""
    rows = 2 * GROUPS
    with serving(model, rows=rows) as server:
        short, long = in_turns(
            *(
                lambda tokens=tokens: tokens * rows * asyncio.run(a_token(server.url, rows, tokens))
                for tokens in STEPS
            ),
            repeats=STEP_REPEATS,
        )
    steps = [(b - a) / (STEPS[1] - STEPS[0]) for a, b in zip(short, long, strict=True)]
    step = statistics.median(steps)
    figures = [Figure(f"{model}: a step with {rows} rows", None, "ms", [1000 * s for s in steps])]
    for name, sampling in SAMPLINGS.items():
        seconds = processor_seconds(sampling)
        say(f"{name}: {1000 * statistics.median(seconds):.1f} of {1000 * step:.0f} ms")
        figures += [
            Figure(f"the processor, {name}", None, "ms", [1000 * s for s in seconds]),
            Figure(f"its share of the step, {name}", 3, "%", [100 * s / step for s in seconds]),
        ]
    return figures


def processor_seconds(sampling: Sampling, repeats: int = 15) -> list[float]:
    """Seconds that a step's logits of :data:`GROUPS` groups of two take."""
    rows = GroupedRows()
    members = [
        MemberParams(
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
    rows.update([], [(row, MemberRow(member, ())) for row, member in enumerate(members)], [])
    logits = 3 * torch.randn(len(members), VOCABULARY, generator=torch.Generator().manual_seed(0))
    seconds: list[float] = []
    for _ in range(repeats + 1):
        step_logits = logits.clone()
        began = time.perf_counter()
        rows.apply(step_logits)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


PARTS = {
    "guided-demo": lambda say: guided(DEMO, say),
    "guided-smollm2": lambda say: guided(SMOLLM2, say),
    "plugin-demo": lambda say: plugin(DEMO, say),
    "processor-smollm2": lambda say: processor(SMOLLM2, say),
}


def main() -> None:
    """Measure, print the table, save it."""
    # So that a run that is ended from outside stops its servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measure_parts("vllm_plugin", __doc__, "Guided decoding inside vLLM", INTRODUCTION, PARTS)


if __name__ == "__main__":
    main()
