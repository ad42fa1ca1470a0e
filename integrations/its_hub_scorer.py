"""REAR's score as an outcome reward model of its_hub, for its best-of-N and whatever else takes one.

Answers that a model drew through its_hub are scored by a model that preftilt opens: in this process, or a server that
returns log-probs of a given text. Copy the file, or import it from a clone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from its_hub import AbstractOutcomeRewardModel  # pyright: ignore[reportMissingImports]

import preftilt as pt


class RearScorer(AbstractOutcomeRewardModel):
    """Scores conversations that end with an answer, in nats: S = Σ_t [q_t + λ (p_t − q_t)], REAR's eq. 10.

    ``preference`` None: a conversation's system message is its preference, and the question is asked without it.
    """

    def __init__(
        self, engine: pt.Engine, preference: str | None = None, settings: pt.Settings | None = None
    ) -> None:
        self.realigner = pt.Realigner(engine, settings)
        self.preference = preference

    def score(self, messages: Any, **options: Any) -> Any:
        """See its_hub. One conversation has one score, several a list."""
        return pt.run_sync(self.ascore(messages, **options))

    async def ascore(self, messages: Any, orchestrator: Any = None, **options: Any) -> Any:
        """As :meth:`score`. The answers to one conversation are scored in one batch."""
        if messages and isinstance(messages[0], list | tuple):
            return await self._all(messages)
        return (await self._all([messages]))[0]

    async def _all(self, conversations: Sequence[Sequence[Any]]) -> list[float]:
        groups: dict[tuple[pt.Message, ...], list[int]] = {}
        texts: list[str] = []
        for place, conversation in enumerate(conversations):
            *turns, answer = (
                pt.Message(turn.role, turn.extract_text_content()) for turn in conversation
            )
            groups.setdefault(tuple(turns), []).append(place)
            texts.append(answer.content)
        scores = [0.0] * len(texts)

        async def fill(turns: Sequence[pt.Message], places: Sequence[int]) -> None:
            told = await self._scores(turns, [texts[place] for place in places])
            for place, score in zip(places, told, strict=True):
                scores[place] = score

        await asyncio.gather(*(fill(turns, places) for turns, places in groups.items()))
        return scores

    async def _scores(self, turns: Sequence[pt.Message], answers: Sequence[str]) -> list[float]:
        """Of several answers to one conversation; an empty one has the lowest score there is."""
        if self.preference is not None:
            wish = self.preference
        elif turns[0].role == "system":
            wish, turns = turns[0].content, turns[1:]
        else:
            raise ValueError("there is no preference: give RearScorer one, or a system message")
        scores = [float("-inf")] * len(answers)
        able = [place for place, answer in enumerate(answers) if answer.strip()]
        if able:
            result = await self.realigner.score(
                turns, [pt.Preference(wish)], [answers[place] for place in able]
            )
            for candidate in result.candidates:
                scores[able[candidate.slot]] = candidate.score
        return scores
