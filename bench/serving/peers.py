"""Best-of-16 of its_hub and optillm against ours, all asking the same vLLM server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from tools.servers.launch import start

from bench.figures import CANDIDATES, NEW_TOKENS
from bench.serving.proxy import SHORT, asked_for, timed
from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed, SideProcess, our_server
from bench.serving.words import WISH, QuestionMaker
from preftilt.engines.models import demo_folder

PEERS = ("its_hub", "optillm")
SIDES = ("plain", "scored", *PEERS)
CALLED = {"its_hub": "its_hub `BestOfN`", "optillm": "optillm `bon`"}


@dataclass(frozen=True, slots=True)
class PeerSeconds:
    """Seconds of one best-of-16: until the candidates are there, and until one is chosen."""

    drawing: float
    whole: float


def measure_peers(
    python: Path, work: Path, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[list[RatioRow], dict[str, str]]:
    """Four rows and the versions of all; ``python`` is that of their environment.

    Responses end where the model ends them, since a rating does: sides draw as many tokens only on average.
    """
    say("peers: starting vLLM")
    upstream = start("vllm", demo_folder(), work / "vllm-peers.log")
    try:
        with (
            our_server(f"vllm+{upstream.url}", work / "serve-peers.log") as ours,
            httpx2.Client(timeout=600, trust_env=False) as client,
        ):
            script = Path(__file__).with_name("peers_side.py")
            side = SideProcess(
                "peers", [str(python), str(script), upstream.url], work / "peers.log"
            )
            try:
                versions = side.ready()["versions"]
                versions["vllm"] = client.get(f"{upstream.url}/version").json()["version"]
                return _rows(PeerClient(client, ours, side, words), repeats, say), versions
            finally:
                side.close()
    finally:
        upstream.stop()


@dataclass(frozen=True, slots=True)
class PeerClient:
    """Sends one request to a side of the comparison: our server by HTTP, a peer in its own process."""

    client: httpx2.Client
    ours: str
    side: SideProcess
    words: QuestionMaker

    def once(self, name: str) -> PeerSeconds:
        question = self.words.question(SHORT)
        if name in PEERS:
            return self._peer(name, question)
        said, seconds = timed(self.client, self.ours, asked_for(name, question, len(question)))
        if name == "plain" and len(said["choices"]) != CANDIDATES:
            raise SideFailed(f"our server sent {len(said['choices'])} of {CANDIDATES} answers")
        return PeerSeconds(seconds, seconds)

    def _peer(self, name: str, question: str) -> PeerSeconds:
        request: dict[str, Any] = {"wish": WISH, "question": question}
        said = self.side.ask(peer=name, n=CANDIDATES, max_tokens=NEW_TOKENS, **request)
        if said["responses"] != CANDIDATES:
            raise SideFailed(f"{name} drew {said['responses']} of {CANDIDATES} responses")
        return PeerSeconds(said["total"] - said["rating"], said["total"])


def _rows(asking: PeerClient, repeats: int, say: Callable[[str], None]) -> list[RatioRow]:
    drawing = {name: _row(name, "drawing", "rating excluded") for name in PEERS}
    whole = {name: _row(name, "whole", "rating included") for name in PEERS}
    for name in SIDES:
        asking.once(name)
    for order in rotated(SIDES, repeats):
        took = {name: asking.once(name) for name in order}
        say("peers: " + ", ".join(f"{name} {took[name].whole:.2f} s" for name in SIDES))
        for name in PEERS:
            drawing[name].add(took[name].drawing, took["plain"].whole)
            whole[name].add(took[name].whole, took["scored"].whole)
    return [row for name in PEERS for row in (drawing[name], whole[name])]


def _row(name: str, kind: str, said: str) -> RatioRow:
    ours = "best-of-16 with REAR scores" if kind == "whole" else "n = 16 without scores"
    title = f"{CALLED[name]}, {said} ÷ our server's {ours}"
    return RatioRow(f"{name}-{kind}", title, 2.0, at_least=True)
