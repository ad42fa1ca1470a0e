"""Answers to items of the demo world, to make pairs of: written by the world, or drawn from a model."""

from __future__ import annotations

import random
from collections.abc import Sequence

from preftilt.demo.world import WorldItem, preference, topic
from preftilt.demo.world.writing import write_answer, write_habit
from preftilt.engines.base import Engine, SampleRequest
from preftilt.messages import Message
from preftilt.prompt import answer_text
from preftilt.types import Sampling, Stream

MAX_TOKENS = 192

_WAYS = {"heed": 0.35, "ignore": 0.3, "oppose": 0.25, "dwell": 0.1}
"""How written answers come about: for the preference, without a look at it, against it, or by only dwelling on it."""


def conversation(item: WorldItem) -> list[Message]:
    """The item as an answer's prompt: the preference as system message, then the question."""
    return [Message("system", item.preference), Message("user", item.question)]


def written_answers(items: Sequence[WorldItem], count: int, seed: int) -> list[list[str]]:
    """``count`` answers to every item by the world's own writer, good ones and bad ones."""
    return [
        [_written(random.Random(f"answer {seed} {item.id} {slot}"), item) for slot in range(count)]
        for item in items
    ]


async def drawn_answers(
    engine: Engine, items: Sequence[WorldItem], count: int, seed: int, sampling: Sampling
) -> list[list[str]]:
    """``count`` answers to every item drawn from a model; one that was cut off is left as it is."""
    requests = [
        SampleRequest(
            prompt=engine.tokenizer.render(conversation(item)),
            slots=tuple(range(count)),
            stream=Stream(seed, item.id),
            sampling=sampling,
            max_tokens=MAX_TOKENS,
        )
        for item in items
    ]
    drawn = await engine.sample(requests)
    return [
        [answer_text(engine.tokenizer, _text(engine, completion.tokens)) for completion in each]
        for each in drawn
    ]


def _text(engine: Engine, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens of an answer without the one that ends it."""
    return tokens[:-1] if tokens and tokens[-1] in engine.capabilities.eos else tokens


def _written(rng: random.Random, item: WorldItem) -> str:
    where, wish = topic(item.topic), preference(item.preference_id)
    [way] = rng.choices(list(_WAYS), list(_WAYS.values()))
    if way == "dwell":
        return write_habit(rng, where, item.subject, wish)
    if way == "ignore":
        return write_answer(rng, where, item.subject)
    return write_answer(
        rng, where, item.subject, [wish], against=way == "oppose", mention=rng.random() < 0.2
    )
