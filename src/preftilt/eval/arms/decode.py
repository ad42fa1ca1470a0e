"""Answers of every method to many prompts under one preference vector, on one engine that has all adapters open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preftilt.demo.world import WorldItem
from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.guides import GuidedView, GuideRequest, Guides
from preftilt.eval.arms.plan import ALPHAS, ASKED_FOR, OBJECTIVES, SAMPLES, TRAININGS, Alpha
from preftilt.eval.objectives.answers import MAX_TOKENS
from preftilt.eval.objectives.rewards import rewards
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, answer_text, with_preferences
from preftilt.rank import order
from preftilt.reward import Reward
from preftilt.types import Preference, Reader, Sampling, Stream, Tokens

POOL_SAMPLING = Sampling(temperature=1.0, top_p=0.9)
"""Of the pool, as in the demo's other measurement."""


@dataclass(frozen=True, slots=True)
class RewardedAnswer:
    """A response with its exact rewards."""

    prompt: str
    text: str
    tokens: int
    rewards: dict[str, float]


def soup_name(alpha: Alpha) -> str:
    """What the engine calls the rewarded soup of ``alpha``."""
    return f"soup-{alpha[0]:g}"


def adapters(folder: Path) -> dict[str, str]:
    """All adapters that the engine opens: the trained ones and a soup for every α."""
    names = [training.name for training in TRAININGS] + [soup_name(alpha) for alpha in ALPHAS]
    return {name: str(folder / name) for name in names}


def prompt_of(engine: Engine, item: WorldItem, *wishes: str) -> Tokens:
    """The item's prompt with its own preference and, behind it, ``wishes``."""
    preferences = [Preference(item.preference), *(Preference(wish) for wish in wishes)]
    return engine.tokenizer.render(
        with_preferences([Message("user", item.question)], preferences, PromptSettings())
    )


Views = Callable[[Engine, WorldItem, Alpha, float], tuple[GuidedView, ...]]


def _base(engine: Engine, item: WorldItem, alpha: Alpha, weight: float) -> tuple[GuidedView, ...]:
    return (GuidedView(prompt_of(engine, item), 1.0),)


def _conditioned(name: str) -> Views:
    """log π_base + w log π_ARM(α)."""

    def views(
        engine: Engine, item: WorldItem, alpha: Alpha, weight: float
    ) -> tuple[GuidedView, ...]:
        prompt = prompt_of(engine, item)
        return GuidedView(prompt, 1.0), GuidedView(prompt, weight, Reader(name, alpha))

    return views


def _each(kind: str, base: float) -> Views:
    """base · log π_base + Σ_i w α_i log π_i, one adapter an objective."""

    def views(
        engine: Engine, item: WorldItem, alpha: Alpha, weight: float
    ) -> tuple[GuidedView, ...]:
        prompt = prompt_of(engine, item)
        read = [
            GuidedView(prompt, weight * share, Reader(f"{kind}-{name}", (1.0,)))
            for name, share in zip(OBJECTIVES, alpha, strict=True)
            if share
        ]
        return (GuidedView(prompt, base), *read) if base else tuple(read)

    return views


def _soup(engine: Engine, item: WorldItem, alpha: Alpha, weight: float) -> tuple[GuidedView, ...]:
    return (GuidedView(prompt_of(engine, item), 1.0, Reader(soup_name(alpha), (1.0,))),)


def _rear(engine: Engine, item: WorldItem, alpha: Alpha, weight: float) -> tuple[GuidedView, ...]:
    """q + λ Σ_i α_i (p_i − q), where q reads the item as it is and p_i with one more wish."""
    wished = [
        GuidedView(prompt_of(engine, item, ASKED_FOR[name]), weight * share)
        for name, share in zip(OBJECTIVES, alpha, strict=True)
        if share
    ]
    plain = GuidedView(prompt_of(engine, item), 1.0 - sum(view.weight for view in wished))
    return plain, *wished


VIEWS: Mapping[str, Views] = {
    "base": _base,
    "uniarm": _conditioned("uniarm"),
    "parm": _conditioned("parm"),
    "genarm": _each("genarm", 1.0),
    "mod": _each("dpo", 0.0),
    "rs": _soup,
    "rear": _rear,
}


async def decoded(
    engine: Engine, method: str, items: Sequence[WorldItem], alpha: Alpha, weight: float
) -> list[RewardedAnswer]:
    """Greedy answers of a method that chooses every token."""
    assert isinstance(engine, Guides)
    requests = [
        GuideRequest(
            views=VIEWS[method](engine, item, alpha, weight),
            slots=(0,),
            stream=Stream(0, item.id),
            sampling=Sampling(temperature=0.0),
            max_tokens=MAX_TOKENS,
        )
        for item in items
    ]
    drawn = await engine.guide(requests)
    return [
        _answer(engine, item, completion.tokens)
        for item, [completion] in zip(items, drawn, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class RewardedSample:
    """A sample with all that methods pick by: sums of log-probs (nats), by the name of the view."""

    answer: RewardedAnswer
    finished: bool
    logprobs: dict[str, float]


async def pooled(
    engine: Engine, items: Sequence[WorldItem], seed: int
) -> list[list[RewardedSample]]:
    """:data:`SAMPLES` samples of every item from the model as it is, read by everything that may pick one."""
    requests = [
        SampleRequest(
            prompt=prompt_of(engine, item),
            slots=tuple(range(SAMPLES)),
            stream=Stream(seed, item.id),
            sampling=POOL_SAMPLING,
            max_tokens=MAX_TOKENS,
        )
        for item in items
    ]
    drawn = await engine.sample(requests)
    wanted = [
        ScoreRequest(prompt=prompt, completion=sample.tokens, reader=reader)
        for item, samples in zip(items, drawn, strict=True)
        for sample in samples
        for prompt, reader in _reads(engine, item).values()
    ]
    sums = iter([float(np.sum(row)) for row in await engine.score(wanted)])
    return [
        [
            RewardedSample(
                _answer(engine, item, sample.tokens),
                sample.finish == "eos",
                {name: next(sums) for name in _reads(engine, item)},
            )
            for sample in samples
        ]
        for item, samples in zip(items, drawn, strict=True)
    ]


def _reads(engine: Engine, item: WorldItem) -> dict[str, tuple[Tokens, Reader | None]]:
    plain = prompt_of(engine, item)
    wished = {
        f"wish-{name}": (prompt_of(engine, item, ASKED_FOR[name]), None) for name in OBJECTIVES
    }
    arms = {f"arm-{name}": (plain, Reader(f"genarm-{name}", (1.0,))) for name in OBJECTIVES}
    return {"plain": (plain, None), **wished, **arms}


def picked(
    method: str, pools: Sequence[Sequence[RewardedSample]], alpha: Alpha, weight: float
) -> list[RewardedAnswer]:
    """The best of every pool under a method of ``PICKED``."""
    return [
        _best(pool, [_score(method, sample, alpha, weight) for sample in pool]) for pool in pools
    ]


def _best(pool: Sequence[RewardedSample], scores: Sequence[float]) -> RewardedAnswer:
    return pool[order(scores, [not sample.finished for sample in pool], Reward().cut_off)[0]].answer


def _score(method: str, sample: RewardedSample, alpha: Alpha, weight: float) -> float:
    plain = sample.logprobs["plain"]
    mix = list(zip(OBJECTIVES, alpha, strict=True))
    if method == "bon-rear":
        return plain + weight * sum(
            share * (sample.logprobs[f"wish-{name}"] - plain) for name, share in mix
        )
    return plain + weight * sum(share * sample.logprobs[f"arm-{name}"] for name, share in mix)


def _answer(engine: Engine, item: WorldItem, tokens: Tokens) -> RewardedAnswer:
    ended = bool(tokens) and tokens[-1] in engine.capabilities.eos
    text = answer_text(engine.tokenizer, tokens[:-1] if ended else tokens)
    return RewardedAnswer(item.id, text, len(tokens), rewards(item, text))
