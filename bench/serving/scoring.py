"""Scoring 16 given responses to one prompt: with the prompt from the server's cache against without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tools.servers.launch import start

from bench.figures import CANDIDATES, MIDDLE, NEW_TOKENS
from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed
from bench.serving.words import QuestionMaker
from preftilt.engines.http.connection import Connection, connect
from preftilt.engines.http.logprob_checks import EXACT
from preftilt.engines.http.sglang import SglangDialect
from preftilt.engines.http.vllm import VllmDialect
from preftilt.engines.models import demo_folder
from preftilt.types import Tokens

KINDS = ("vllm", "sglang")
SIDES = ("shared", "plain")
WARM_UP = 100
"""Tokens; no whole number of cache blocks, after which vLLM tells no log-prob of the first token."""


class Reader(Protocol):
    """A dialect that scores both ways; ``read`` shares prefixes, and reads again plainly what that did not give."""

    def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> Awaitable[Sequence[np.ndarray]]: ...

    def score_shared_prefix(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> Awaitable[Sequence[np.ndarray | None]]: ...

    def score_plain(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> Awaitable[Sequence[np.ndarray]]: ...


def measure_scoring(
    work: Path, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[list[RatioRow], dict[str, str]]:
    """A row a server, and the servers' versions; every reading is of tokens that no cache has seen."""
    rows, versions = [], {}
    for kind in KINDS:
        say(f"scoring: starting {kind}")
        server = start(kind, demo_folder(), work / f"{kind}-scoring.log")
        try:
            row, versions[kind] = asyncio.run(_row(kind, server.url, words, repeats, say))
        finally:
            server.stop()
        rows.append(row)
    return rows, versions


async def _row(
    kind: str, url: str, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[RatioRow, str]:
    connection = connect(url, key_variable="PREFTILT_API_KEY", timeout=600, max_connections=64)
    try:
        reader = _reader(kind, connection)
        await _agree(kind, reader, words)
        name = {"vllm": "vLLM's server", "sglang": "SGLang's server"}[kind]
        row = RatioRow(
            f"scoring-{kind}",
            f"{name}: scoring {CANDIDATES} × {NEW_TOKENS} tokens after {MIDDLE:,}, prefix shared ÷ not",
            0.35,
        )
        for order in rotated(SIDES, repeats):
            took = {side: await _once(reader, side, words) for side in order}
            say(f"scoring, {kind}: shared {took['shared']:.2f} s, plain {took['plain']:.2f} s")
            row.add(took["shared"], took["plain"])
        return row, await _version(kind, connection)
    finally:
        await connection.close()


def _reader(kind: str, connection: Connection) -> Reader:
    if kind == "sglang":
        return SglangDialect(
            connection=connection, model="demo", end_ids=(), seeded=False, shares_prefix=True
        )
    return VllmDialect(
        connection=connection,
        model="demo",
        end_ids=(),
        scores_without_drawing=True,
        shares_prefix=True,
    )


async def _agree(kind: str, reader: Reader, words: QuestionMaker) -> None:
    """Warms both ways up, and makes sure that they read the same: a fast wrong answer is none."""
    context = words.tokens(WARM_UP)
    completions = [words.tokens(WARM_UP) for _ in range(CANDIDATES)]
    shared = await reader.score_shared_prefix(context, completions)
    plain = await reader.score_plain(context, completions)
    gaps = [np.abs(a - b).max() for a, b in zip(shared, plain, strict=True) if a is not None]
    if not gaps or max(gaps) > EXACT:
        raise SideFailed(f"{kind}: log-probs with and without the shared prefix differ: {gaps}")


async def _once(reader: Reader, side: str, words: QuestionMaker) -> float:
    context = words.tokens(MIDDLE)
    completions = [words.tokens(NEW_TOKENS) for _ in range(CANDIDATES)]
    read = reader.score if side == "shared" else reader.score_plain
    began = time.perf_counter()
    rows = await read(context, completions)
    seconds = time.perf_counter() - began
    if any(len(row) != NEW_TOKENS for row in rows):
        raise SideFailed(f"{side}: log-probs are missing")
    return seconds


async def _version(kind: str, connection: Connection) -> str:
    path, field = {"vllm": ("/version", "version"), "sglang": ("/server_info", "version")}[kind]
    said: Any = (await connection.client.get(connection.url + path)).json()
    return said[field]
