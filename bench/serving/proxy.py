"""Best-of-16 through our server against the same request to the upstream alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from tools.servers.launch import start

from bench.figures import CANDIDATES, MIDDLE, NEW_TOKENS
from bench.serving.endless import write_endless
from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed, our_server
from bench.serving.words import WISH, QuestionMaker

SHORT = 30
LENGTHS = {"short": SHORT, "long": MIDDLE}
SAID = {"short": f"{SHORT}-token question", "long": f"{MIDDLE:,}-token question"}
SIDES = ("upstream", "told", "plain", "scored")


def measure_proxy(
    work: Path, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[list[RatioRow], dict[str, str]]:
    """Rows for a short and a long question, and vLLM's version.

    Every request has a question of its own and draws 16 × 128 tokens, which is checked.
    """
    rows: list[RatioRow] = []
    say("proxy: starting vLLM")
    upstream = start("vllm", str(write_endless(work / "endless")), work / "vllm-endless.log")
    try:
        with (
            our_server(f"vllm+{upstream.url}", work / "serve-endless.log") as ours,
            httpx2.Client(timeout=600, trust_env=False) as client,
        ):
            version = client.get(f"{upstream.url}/version").json()["version"]
            urls = {"upstream": upstream.url, "told": upstream.url, "plain": ours, "scored": ours}
            for kind in LENGTHS:
                for side in SIDES:
                    _once(client, urls[side], side, words, kind)
                told, plain, scored = _rows(kind)
                for order in rotated(SIDES, repeats):
                    took = {side: _once(client, urls[side], side, words, kind) for side in order}
                    say(f"proxy, {kind}: " + ", ".join(f"{k} {took[k]:.2f} s" for k in SIDES))
                    told.add(took["told"], took["upstream"])
                    plain.add(took["plain"], took["upstream"])
                    scored.add(took["scored"], took["upstream"])
                rows += [plain, told, scored]
    finally:
        upstream.stop()
    return rows, {"vllm": version}


def _rows(kind: str) -> tuple[RatioRow, RatioRow, RatioRow]:
    upstream = f"the upstream's own n = {CANDIDATES}, {SAID[kind]}"
    return (
        RatioRow(
            f"told-{kind}",
            f"the upstream alone, telling log-probs and token ids, which scores need ÷ {upstream}",
            None,
        ),
        RatioRow(
            f"proxy-{kind}", f"n = {CANDIDATES} through our server, no scores ÷ {upstream}", 1.05
        ),
        RatioRow(
            f"scored-{kind}",
            f"best-of-{CANDIDATES} with REAR scores through our server ÷ {upstream}",
            1.6,
        ),
    )


def asked_for(side: str, question: str, seed: int) -> dict[str, Any]:
    """The same request to all: the wish is the system message, or the preference (``scored``)."""
    user = {"role": "user", "content": question}
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "system", "content": WISH}, user],
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": NEW_TOKENS,
        "seed": seed,
    }
    if side == "told":
        return body | {"n": CANDIDATES, "logprobs": True, "return_token_ids": True}
    if side != "scored":
        return body | {"n": CANDIDATES}
    knob = {"preference": WISH, "search": "best-of-n", "n": CANDIDATES}
    return body | {"messages": [user], "preftilt": knob}


def timed(client: httpx2.Client, url: str, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """A chat's answer, and the seconds until it was there."""
    began = time.perf_counter()
    said = client.post(f"{url}/v1/chat/completions", json=body)
    seconds = time.perf_counter() - began
    if said.status_code != 200:
        raise SideFailed(f"{url} answered {said.status_code}: {said.text[:500]}")
    return said.json(), seconds


def _once(client: httpx2.Client, url: str, side: str, words: QuestionMaker, kind: str) -> float:
    """Seconds of one request."""
    question = words.question(LENGTHS[kind])
    said, seconds = timed(client, url, asked_for(side, question, len(question)))
    drawn = said["usage"]["completion_tokens"]
    if drawn != CANDIDATES * NEW_TOKENS:
        raise SideFailed(f"{side} drew {drawn} tokens instead of {CANDIDATES} × {NEW_TOKENS}")
    return seconds
