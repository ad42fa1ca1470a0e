"""Answers of every method to many prompts, kept unit by unit so that a run that was stopped goes on.

A unit is a line of the record file: the answers of one method under one α and strength, or the pools of some items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from preftilt.arm.spec import Method as TrainMethod
from preftilt.demo.world import WorldItem, items
from preftilt.engines.base import Engine, GuidedView, GuideRequest, SampleRequest, ScoreRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.eval.answers import first_by
from preftilt.eval.fronts import RewardScale, mean_inner_product
from preftilt.eval.objectives import BRIEF, HELPFUL, MAX_TOKENS, rewards
from preftilt.eval.runner import in_shares, measure_into, resumed
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, answer_text, with_preferences
from preftilt.records.lines import read_records
from preftilt.types import Preference, Reader, Sampling, Stream, Tokens

OBJECTIVES = (HELPFUL, BRIEF)
"""They pull apart: an answer that helps more is longer. The third reward, ``keeping``, is recorded beside them."""

SCALE = RewardScale(objectives=OBJECTIVES, low=(0.0, 0.0), high=(1.0, 1.0), reference=(0.0, 0.0))
"""The rewards lie in [0, 1] by their making, so their units are the scale's."""

ASKED_FOR = {HELPFUL: "Give me plenty of ideas.", BRIEF: "Please keep it short."}
"""The objectives as preferences in words, which is all that REAR needs of them; the bundled model knows both wishes."""

Alpha = tuple[float, float]

ALPHAS: tuple[Alpha, ...] = tuple((step / 10, (10 - step) / 10) for step in range(11))
TUNING_ALPHAS: tuple[Alpha, ...] = ((0.1, 0.9), (0.5, 0.5), (0.9, 0.1))


@dataclass(frozen=True, slots=True)
class AdapterTraining:
    """An adapter that is trained before anything is measured."""

    name: str
    method: TrainMethod
    objectives: tuple[str, ...]


TRAININGS = (
    AdapterTraining("uniarm", "uniarm", OBJECTIVES),
    AdapterTraining("parm", "parm", OBJECTIVES),
    *(AdapterTraining(f"genarm-{objective}", "genarm", (objective,)) for objective in OBJECTIVES),
    *(AdapterTraining(f"dpo-{objective}", "dpo", (objective,)) for objective in OBJECTIVES),
)


@dataclass(frozen=True, slots=True)
class ArmsMethod:
    """A row of the table.

    weights: its strengths that validation chooses from (w of reward models, λ of REAR); none: it has none. trained:
    the adapters that it needs. forwards: of a model a token of the answer, candidates that are not taken included.
    """

    name: str
    title: str
    weights: tuple[float, ...]
    trained: tuple[str, ...]
    forwards: str


STRENGTHS = (0.5, 1.0, 2.0, 4.0)
_GENARMS = tuple(f"genarm-{objective}" for objective in OBJECTIVES)
_POLICIES = tuple(f"dpo-{objective}" for objective in OBJECTIVES)
SAMPLES = 16

DECODED: Mapping[str, ArmsMethod] = {
    method.name: method
    for method in (
        ArmsMethod("base", "the bundled model, greedy", (), (), "1"),
        ArmsMethod("uniarm", "UniARM (reconstruction), guided", STRENGTHS, ("uniarm",), "2"),
        ArmsMethod("parm", "PARM, guided", STRENGTHS, ("parm",), "2"),
        ArmsMethod("genarm", "GenARM, guided", STRENGTHS, _GENARMS, "1 + 2"),
        ArmsMethod("rs", "rewarded soups of two DPO policies", (), _POLICIES, "1"),
        ArmsMethod("mod", "MOD of two DPO policies", (), _POLICIES, "2"),
        ArmsMethod("rear", "REAR a token, two preferences", STRENGTHS, (), "1 + 2"),
    )
}
"""Every token is chosen by the method; greedy, as PARM measures."""

PICKED: Mapping[str, ArmsMethod] = {
    method.name: method
    for method in (
        ArmsMethod(
            "bon-rear", f"REAR best-of-{SAMPLES}, two preferences", STRENGTHS, (), "16 · (1 + 2)"
        ),
        ArmsMethod("bon-genarm", f"GenARM best-of-{SAMPLES}", STRENGTHS, _GENARMS, "16 · (1 + 2)"),
    )
}
"""One pool of samples of the bundled model serves them under every α and strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured: pairs' items (train, validation, test), prompts of the sweep, epochs of training."""

    pairs: tuple[int, int, int] = (1500, 150, 150)
    prompts: int = 100
    tuning_prompts: int = 40
    epochs: int = 1
    seed: int = 0


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


def views_of(
    engine: Engine, item: WorldItem, method: str, alpha: Alpha, weight: float
) -> tuple[GuidedView, ...]:
    """What a method of ``DECODED`` mixes at every token: log-probs with their weights."""
    prompt = prompt_of(engine, item)
    base = GuidedView(prompt, 1.0)
    mix = [(name, share) for name, share in zip(OBJECTIVES, alpha, strict=True) if share]
    match method:
        case "base":
            return (base,)
        case "uniarm" | "parm":  # log π_base + w log π_ARM(α)
            return base, GuidedView(prompt, weight, Reader(method, alpha))
        case (
            "genarm" | "mod"
        ):  # Σ_i w α_i log π_i, one adapter an objective; GenARM's beside log π_base
            kind = "genarm" if method == "genarm" else "dpo"
            read = [
                GuidedView(prompt, weight * share, Reader(f"{kind}-{name}", (1.0,)))
                for name, share in mix
            ]
            return (base, *read) if method == "genarm" else tuple(read)
        case "rs":
            return (GuidedView(prompt, 1.0, Reader(soup_name(alpha), (1.0,))),)
        case _:  # REAR: q + λ Σ_i α_i (p_i − q), where q reads the item as it is and p_i with one more wish
            wished = [
                GuidedView(prompt_of(engine, item, ASKED_FOR[name]), weight * share)
                for name, share in mix
            ]
            return GuidedView(prompt, 1.0 - sum(view.weight for view in wished)), *wished


async def decoded(
    engine: Engine, method: str, items: Sequence[WorldItem], alpha: Alpha, weight: float
) -> list[RewardedAnswer]:
    """Greedy answers of a method that chooses every token."""
    requests = [
        GuideRequest(
            views=views_of(engine, item, method, alpha, weight),
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
        first_by(pool, [_score(method, sample, alpha, weight) for sample in pool]).answer
        for pool in pools
    ]


def _score(method: str, sample: RewardedSample, alpha: Alpha, weight: float) -> float:
    plain = sample.logprobs["plain"]
    mix = list(zip(OBJECTIVES, alpha, strict=True))
    if method == "bon-rear":
        return plain + weight * sum(
            share * (sample.logprobs[f"wish-{name}"] - plain) for name, share in mix
        )
    return plain + weight * sum(share * sample.logprobs[f"arm-{name}"] for name, share in mix)


def _answer(engine: Engine, item: WorldItem, tokens: Tokens) -> RewardedAnswer:
    text = answer_text(engine.tokenizer, tokens)
    return RewardedAnswer(item.id, text, len(tokens), rewards(item, text))


Part = Literal["validation", "test"]
POOL_ITEMS = 25
"""Items whose pools are one unit."""

ROWS = 256
"""Sequences in a batch, as in the demo's other measurement."""

OnUnit = Callable[[str, int, int], None]
"""Called with what is measured, the units done and the units in all."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where adapters and records lie, and how much is measured."""

    adapters: Path
    records: Path
    sizes: Sizes
    processes: int
    on_unit: OnUnit

    def run(self) -> tuple[dict[str, float], dict[str, dict[Alpha, list[RewardedAnswer]]]]:
        """The strength of every method that has one, chosen on validation, and all answers on test items."""
        parts: tuple[Part, ...] = ("validation", "test")
        self._measure("pools", [unit for part in parts for unit in self._pool_units(part)])
        tuning = [
            _unit("validation", method.name, alpha, weight)
            for method in DECODED.values()
            for weight in method.weights
            for alpha in TUNING_ALPHAS
        ]
        self._measure("strengths", tuning)
        chosen = self._chosen()
        final = [
            _unit("test", method.name, alpha, chosen.get(method.name, 1.0))
            for method in DECODED.values()
            for alpha in (ALPHAS[:1] if method.name == "base" else ALPHAS)
        ]
        self._measure("answers", final)
        return chosen, self._answers(chosen)

    def _measure(self, what: str, units: Sequence[str]) -> None:
        work = partial(_work, self.adapters, self.sizes)
        in_shares(
            work,
            units,
            self.records,
            self.processes,
            lambda done: self.on_unit(what, done, len(units)),
        )

    def _pool_units(self, part: Part) -> list[str]:
        count = len(part_items(part, self.sizes))
        return [f"{part}/pool/{start}" for start in range(0, count, POOL_ITEMS)]

    def _chosen(self) -> dict[str, float]:
        """The strength with the highest MIP over the tuning α; of equal ones the smallest."""
        known = _records(self.records)
        pools = self._pools("validation", known)
        strengths: dict[str, float] = {}
        for method in (*DECODED.values(), *PICKED.values()):
            products = []
            for weight in method.weights:
                by_alpha = [
                    picked(method.name, pools, alpha, weight)
                    if method.name in PICKED
                    else _answers_of(known[_unit("validation", method.name, alpha, weight)])
                    for alpha in TUNING_ALPHAS
                ]
                means = [
                    [np.mean([answer.rewards[name] for answer in answers]) for name in OBJECTIVES]
                    for answers in by_alpha
                ]
                products.append(mean_inner_product(np.array(means), np.array(TUNING_ALPHAS), SCALE))
            if products:
                strengths[method.name] = method.weights[int(np.argmax(products))]
        return strengths

    def _answers(self, chosen: Mapping[str, float]) -> dict[str, dict[Alpha, list[RewardedAnswer]]]:
        known = _records(self.records)
        pools = self._pools("test", known)
        by_method: dict[str, dict[Alpha, list[RewardedAnswer]]] = {}
        for name in DECODED:
            weight = chosen.get(name, 1.0)
            mixes = {alpha: ALPHAS[0] if name == "base" else alpha for alpha in ALPHAS}
            by_method[name] = {
                alpha: _answers_of(known[_unit("test", name, mix, weight)])
                for alpha, mix in mixes.items()
            }
        for name in PICKED:
            by_method[name] = {alpha: picked(name, pools, alpha, chosen[name]) for alpha in ALPHAS}
        return by_method

    def _pools(self, part: Part, known: Mapping[str, dict]) -> list[list[RewardedSample]]:
        return [
            [
                RewardedSample(**sample | {"answer": RewardedAnswer(**sample["answer"])})
                for sample in pool
            ]
            for unit in self._pool_units(part)
            for pool in known[unit]["pools"]
        ]


def part_items(part: Part, sizes: Sizes) -> Sequence[WorldItem]:
    """The prompts of a part of the measurement."""
    return items(part)[: sizes.prompts if part == "test" else sizes.tuning_prompts]


def _unit(part: Part, method: str, alpha: Alpha, weight: float) -> str:
    return f"{part}/{method}/{alpha[0]:g}/{weight:g}"


def _records(path: Path) -> dict[str, dict]:
    return {record["id"]: record for record in read_records(path)}


def _answers_of(record: Mapping) -> list[RewardedAnswer]:
    return [RewardedAnswer(**answer) for answer in record["answers"]]


def _work(folder: Path, sizes: Sizes, units: Sequence[str], path: Path) -> None:
    """Measure ``units`` on an engine of this process's own."""
    engine = open_engine("demo", EngineOptions(max_rows=ROWS, arms=adapters(folder)))
    tasks = [partial(_measured, engine, unit, sizes) for unit in units]
    try:
        asyncio.run(measure_into(resumed(path), tasks, at_once=1))
    finally:
        engine.close()


async def _measured(engine: Engine, unit: str, sizes: Sizes) -> list[dict]:
    part, what, *rest = unit.split("/")
    some = part_items("test" if part == "test" else "validation", sizes)
    if what == "pool":
        start = int(rest[0])
        pools = await pooled(engine, some[start : start + POOL_ITEMS], sizes.seed)
        return [{"id": unit, "pools": [[asdict(sample) for sample in pool] for pool in pools]}]
    share, weight = float(rest[0]), float(rest[1])
    [alpha] = [mix for mix in (*ALPHAS, *TUNING_ALPHAS) if mix[0] == share][:1]
    answers = await decoded(engine, what, some, alpha, weight)
    return [{"id": unit, "answers": [asdict(answer) for answer in answers]}]
