"""Best-of-N of its_hub and optillm against a server, a line of JSON each time; run by the neighbours' own Python.

Both are used as their documentation says. The seconds that each spends on rating are told apart by a clock around its
calls: its_hub's around the judge, optillm's around every question to the server after the one that draws.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false
# The neighbours have an environment of their own (requirements/peers.txt).

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib.metadata import version
from typing import Any

from its_hub import (
    AbstractOutcomeRewardModel,
    BestOfN,
    LLMJudge,
    OpenAICompatibleLanguageModel,
)
from its_hub.api import ChatMessage
from openai import OpenAI
from optillm.bon import best_of_n_sampling

MODEL = "demo"


class TimedJudge(AbstractOutcomeRewardModel):
    """its_hub's judge, and the seconds it took last."""

    def __init__(self, judge: LLMJudge) -> None:
        self.seconds = 0.0
        self._judge = judge

    def score(self, messages: Any, **options: Any) -> Any:
        return self._judge.score(messages, **options)

    async def ascore(self, messages: Any, orchestrator: Any = None, **options: Any) -> Any:
        began = time.perf_counter()
        scores = await self._judge.ascore(messages, orchestrator=orchestrator, **options)
        self.seconds = time.perf_counter() - began
        return scores


class TimedCompletions:
    """What optillm uses of OpenAI's client, and the seconds of each question."""

    def __init__(self, client: OpenAI) -> None:
        self.seconds: list[float] = []
        self.chat = self
        self.completions = self
        self._client = client

    def create(self, **options: Any) -> Any:
        began = time.perf_counter()
        said = self._client.chat.completions.create(**options)
        self.seconds.append(time.perf_counter() - began)
        return said


async def its_hub(url: str, request: dict[str, Any]) -> dict[str, float]:
    lm = OpenAICompatibleLanguageModel(
        endpoint=f"{url}/v1",
        api_key="none",
        model_name=MODEL,
        max_completion_tokens=request["max_tokens"],
        temperature=1.0,
    )
    judge = TimedJudge(LLMJudge(lm=lm))
    messages = [
        ChatMessage(role="system", content=request["wish"]),
        ChatMessage(role="user", content=request["question"]),
    ]
    began = time.perf_counter()
    result = await BestOfN(orm=judge).ainfer(
        lm, messages, budget=request["n"], return_response_only=False
    )
    total = time.perf_counter() - began
    await lm.close()
    return {"total": total, "rating": judge.seconds, "responses": len(result.responses)}


def optillm(url: str, request: dict[str, Any]) -> dict[str, float]:
    client = TimedCompletions(OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600))
    began = time.perf_counter()
    best_of_n_sampling(
        request["wish"],
        request["question"],
        client,
        MODEL,
        n=request["n"],
        request_config={"max_tokens": request["max_tokens"]},
    )
    total = time.perf_counter() - began
    return {
        "total": total,
        "rating": sum(client.seconds[1:]),
        "responses": len(client.seconds) - 1,
    }


def main() -> None:
    url = sys.argv[1]
    print(json.dumps({"versions": {name: version(name) for name in ("its_hub", "optillm")}}))
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        by_its_hub = request["peer"] == "its_hub"
        measured = asyncio.run(its_hub(url, request)) if by_its_hub else optillm(url, request)
        print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
