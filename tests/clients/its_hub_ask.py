"""its_hub's best-of-N with our scorer on the toy engine: what it picks among the answers of ``argv[1]``, and why."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).parents[2] / "integrations"))

from its_hub import BestOfN  # pyright: ignore[reportMissingImports]
from its_hub.api import (  # pyright: ignore[reportMissingImports]
    AbstractLanguageModel,
    ChatMessage,
)
from its_hub_scorer import RearScorer  # pyright: ignore[reportMissingImports]

import preftilt as pt
from preftilt.testing.toy import ToyEngine


class Drawn(AbstractLanguageModel):
    """A language model that draws given answers, one after the other."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = iter(answers)

    async def agenerate(self, messages: Any, stop: Any = None, **options: Any) -> Any:
        return [await self.agenerate_single(conversation) for conversation in messages]

    async def agenerate_single(self, messages: Any, stop: Any = None, **options: Any) -> Any:
        return {"role": "assistant", "content": next(self.answers)}


async def asked(request: dict[str, Any]) -> dict[str, Any]:
    scorer = RearScorer(ToyEngine(), request["preference"], pt.Settings(lam=4))
    turns = [ChatMessage(**turn) for turn in request["messages"]]
    result = await BestOfN(orm=scorer).ainfer(
        Drawn(request["answers"]),
        turns,
        budget=len(request["answers"]),
        return_response_only=False,
    )
    return {
        "answers": [response["content"] for response in result.responses],
        "scores": result.scores,
        "selected": result.selected_index,
    }


if __name__ == "__main__":
    requests = json.loads(sys.argv[1])
    replies = [asyncio.run(asked(request)) for request in requests]
    turns = [ChatMessage(**turn) for turn in requests[0]["messages"]]
    scorer = RearScorer(ToyEngine(), requests[0]["preference"], pt.Settings(lam=4))
    answer = ChatMessage(role="assistant", content=requests[0]["answers"][0])
    print(json.dumps({"replies": replies, "single": scorer.score([*turns, answer])}))
