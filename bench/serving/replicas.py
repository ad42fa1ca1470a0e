"""What routing by the prompt buys: the prompt tokens that two vLLM servers compute, against calls dealt in turn, and
against calls through vLLM's own router."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import httpx2
import numpy as np
from jaxtyping import Float
from prometheus_client.parser import text_string_to_metric_families
from tools.servers.launch import start, start_router

from bench.figures import MIDDLE
from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed
from bench.serving.words import QuestionMaker
from preftilt.engines.base import Engine, EngineInfo, SampleRequest, ScoreRequest
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.messages import Message
from preftilt.types import Completion, Sampling, Stream, Tokens

USERS, ROUNDS, DRAWN, TOKENS = 16, 4, 4, 16
"""Each user has a prompt of a thousand tokens, and draws answers to it once a round.

Scores are left out: vLLM's rows of a cached prompt are left as they lie in memory, and what is no number there makes it
read a score again without the cache, now and then, whoever is asked.
"""

SIDES = ("in turn", "vllm-router", "by the prompt")
BLOCK = 32
TIGHT = 3 * USERS // 4 * (MIDDLE // BLOCK + 1)
"""Cache blocks of a server with room for three quarters of all users' prompts."""

WHOLE = ("--max-num-batched-tokens", "32768")
"""Every prompt in one step: on CPUs vLLM 0.32 ends with "CPU Generator does not use offset" where it divides one of a
request with a seed."""

ROOMS = {"ample": WHOLE, "tight": (*WHOLE, "--num-gpu-blocks-override", str(TIGHT))}
SAID = {
    "ample": "room for all prompts in each cache",
    "tight": "room for three quarters of them in each cache",
}
COUNTED = "vllm:prompt_tokens_by_source"
COMPUTED, CACHED = "local_compute", "local_cache_hit"


@dataclass(frozen=True, slots=True)
class RoundRobin(Engine):
    """Engines of one model, each given the next call: what a load balancer does that knows nothing of prompts.

    A call keeps together what it asks, which is more than such a balancer would do.
    """

    engines: Sequence[Engine]
    turn: Iterator[Engine]

    @property
    def info(self) -> EngineInfo:
        return replace(self.engines[0].info, name="in turn")

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return await next(self.turn).sample(requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await next(self.turn).score(requests)

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def measure_replicas(
    work: Path, words: QuestionMaker, repeats: int, say: Callable[[str], None]
) -> tuple[list[RatioRow], dict[str, str]]:
    """Two rows a size of the caches, in tokens, and versions."""
    rows, version = [], ""
    for room, flags in ROOMS.items():
        asked = f"{USERS} users draw {DRAWN} answers to a {MIDDLE:,}-token question {ROUNDS} times"
        in_turn, by_router = (
            RatioRow(
                f"replicas-{room}-{name}",
                f"prompt tokens computed by 2 vLLM servers, {told} ÷ by the prompt's hash: {asked}, {SAID[room]}",
                None,
                unit="tokens",
            )
            for name, told in (
                ("in-turn", "calls in turn"),
                ("router", "calls through vllm-router (`cache_aware`)"),
            )
        )
        with ExitStack() as stack:
            urls = []
            for number in (1, 2):
                say(f"replicas, {room}: starting vLLM {number}")
                log = work / f"vllm-{room}-{number}.log"
                server = start("vllm", demo_folder(), log, flags=flags)
                stack.callback(server.stop)
                urls.append(server.url)
            router = start_router(urls, work / f"vllm-router-{room}.log")
            stack.callback(router.stop)
            engines = _opened(urls, router.url, stack)
            for order in rotated(SIDES, repeats):
                read = {side: _once(engines[side], urls, words, say) for side in order}
                in_turn.add(read["in turn"], read["by the prompt"])
                by_router.add(read["vllm-router"], read["by the prompt"])
            version = httpx2.get(f"{urls[0]}/version", trust_env=False).json()["version"]
        rows += [in_turn, by_router]
    return rows, {"vllm": version, "vllm-router": metadata.version("vllm-router")}


def _opened(urls: Sequence[str], router: str, stack: ExitStack) -> dict[str, Engine]:
    alone = [open_engine(f"vllm+{url}") for url in urls]
    engines: list[Engine] = [
        RoundRobin(alone, itertools.cycle(alone)),
        open_engine(f"vllm+{router}"),
        open_engine(f"vllm+{','.join(urls)}"),
    ]
    for engine in engines:
        stack.callback(engine.close)
    return dict(zip(SIDES, engines, strict=True))


def _once(
    engine: Engine, urls: Sequence[str], words: QuestionMaker, say: Callable[[str], None]
) -> int:
    """Prompt tokens that the servers compute for all users' requests, each with a prompt that no cache knows."""
    questions = [words.question(MIDDLE) for _ in range(USERS)]
    before = _counted(urls)
    asyncio.run(_all(engine, questions))
    spent = _counted(urls) - before
    say(f"replicas, {engine.name}: {spent[COMPUTED]:,} tokens computed, {spent[CACHED]:,} cached")
    if spent[COMPUTED] < USERS * MIDDLE:
        raise SideFailed(f"vLLM computed {spent[COMPUTED]} prompt tokens, fewer than there are")
    return spent[COMPUTED]


async def _all(engine: Engine, questions: Sequence[str]) -> None:
    """All users at once, in another order every round."""
    prompts = [engine.tokenizer.render([Message("user", question)]) for question in questions]
    order = random.Random(len(prompts))
    for number in range(ROUNDS):
        requests = [_draw(prompt, number) for prompt in order.sample(prompts, len(prompts))]
        await asyncio.gather(*(engine.sample([request]) for request in requests))


def _draw(prompt: Tokens, seed: int) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        slots=tuple(range(DRAWN)),
        stream=Stream(seed),
        sampling=Sampling(),
        max_tokens=TOKENS,
    )


def _counted(urls: Sequence[str]) -> Counter[str]:
    """Prompt tokens of all servers so far, by where they came from."""
    tokens: Counter[str] = Counter()
    for url in urls:
        said = httpx2.get(f"{url}/metrics", trust_env=False).text
        for family in text_string_to_metric_families(said):
            if family.name == COUNTED:
                for sample in family.samples:
                    if sample.name.endswith("_total"):
                        tokens[sample.labels["source"]] += int(sample.value)
    if not tokens:
        raise SideFailed(f"{urls[0]}/metrics has no {COUNTED}; vLLM 0.32 has it")
    return tokens
