"""Many clients at once, who read their answers as they come: through our server, and from vLLM's alone."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
from tools.servers.launch import start

from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed, our_server
from bench.serving.words import QuestionMaker
from preftilt.engines.models import SMOLLM2, model_folder

CLIENTS, QUESTION_TOKENS, TOKENS = 200, 30, 32
SIDES = ("upstream", "ours")
SAID = f"{CLIENTS} clients stream {TOKENS} tokens of SmolLM2 each"


@dataclass(frozen=True, slots=True)
class Streamed:
    """All answers of a side: seconds, tokens, and the seconds until the first text of the median and the last of 100
    clients."""

    seconds: float
    tokens: int
    p50: float
    p99: float


def measure_streams(
    work: Path, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[list[RatioRow], dict[str, str]]:
    """Rows of the time a token takes and of the wait for the first one, and vLLM's version."""
    rows = [
        RatioRow("streams", f"{SAID}: time a token through our server ÷ the upstream's", 1.05),
        RatioRow(
            "first-p50",
            f"{SAID}: median wait for the first token, through ours ÷ the upstream's",
            None,
        ),
        RatioRow("first-p99", f"{SAID}: 99th percentile of that wait", None),
    ]
    say("streams: starting vLLM with SmolLM2")
    upstream = start(
        "vllm", model_folder(SMOLLM2), work / "vllm-streams.log", flags=("--dtype", "bfloat16")
    )
    try:
        with our_server(f"vllm+{upstream.url}", work / "serve-streams.log") as ours:
            urls = {"upstream": upstream.url, "ours": ours}
            for order in rotated(SIDES, repeats):
                got = {side: asyncio.run(_all(urls[side], words)) for side in order}
                say("streams: " + ", ".join(f"{side} {got[side]}" for side in SIDES))
                top, bottom = got["ours"], got["upstream"]
                rows[0].add(top.seconds / top.tokens, bottom.seconds / bottom.tokens)
                rows[1].add(top.p50, bottom.p50)
                rows[2].add(top.p99, bottom.p99)
            version = httpx2.get(f"{upstream.url}/version", trust_env=False).json()["version"]
    finally:
        upstream.stop()
    return rows, {"vllm": version}


async def _all(url: str, words: QuestionMaker) -> Streamed:
    """All clients' answers, asked for at once."""
    questions = [words.question(QUESTION_TOKENS) for _ in range(CLIENTS)]
    limits = httpx2.Limits(max_connections=CLIENTS)
    async with httpx2.AsyncClient(limits=limits, timeout=900, trust_env=False) as client:
        began = time.perf_counter()
        got = await asyncio.gather(*(_stream(client, url, question) for question in questions))
        seconds = time.perf_counter() - began
    p50, p99 = np.percentile([first for first, _ in got], [50, 99])
    return Streamed(seconds, sum(tokens for _, tokens in got), float(p50), float(p99))


async def _stream(client: httpx2.AsyncClient, url: str, question: str) -> tuple[float, int]:
    """Seconds until the first text of an answer, and the answer's tokens."""
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise SideFailed(f"{url} answered {answer.status_code}: {await answer.aread()!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if not first and any(choice["delta"].get("content") for choice in event["choices"]):
                first = time.perf_counter() - began
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    if not (first and tokens):
        raise SideFailed(f"{url} ended a stream without text or usage")
    return first, tokens
