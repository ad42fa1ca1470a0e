"""The demo world's measurement of reward models: what every method reads with which weight, and what it picks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftilt.demo.world import items
from preftilt.eval.arms.decode import (
    ALPHAS,
    ASKED_FOR,
    DECODED,
    OBJECTIVES,
    PICKED,
    SCALE,
    TRAININGS,
    RewardedAnswer,
    RewardedSample,
    adapters,
    picked,
    prompt_of,
    views_of,
)
from preftilt.eval.arms.experiment import markdown
from preftilt.eval.fronts import MethodRewards, fronts
from preftilt.testing.toy import ToyEngine
from preftilt.types import Reader

ITEM = items("test")[0]
ALPHA = (0.25, 0.75)


def read(method: str, alpha=ALPHA, weight: float = 2.0) -> dict[Any, float]:
    """Who reads with which weight, by reader or by the prompt of the base."""
    engine = ToyEngine()
    named = {prompt_of(engine, ITEM): "plain"}
    named |= {prompt_of(engine, ITEM, ASKED_FOR[name]): name for name in OBJECTIVES}
    views = views_of(engine, ITEM, method, alpha, weight)
    return {view.reader or named[view.prompt]: view.weight for view in views}


def test_every_method_mixes_what_its_paper_mixes():
    assert read("base") == {"plain": 1}
    assert read("parm") == {"plain": 1, Reader("parm", ALPHA): 2}
    assert read("uniarm") == {"plain": 1, Reader("uniarm", ALPHA): 2}
    one = {
        Reader(f"genarm-{name}", (1.0,)): 2 * a for name, a in zip(OBJECTIVES, ALPHA, strict=True)
    }
    assert read("genarm") == {"plain": 1, **one}
    policies = {Reader(f"dpo-{name}", (1.0,)): a for name, a in zip(OBJECTIVES, ALPHA, strict=True)}
    assert read("mod", weight=1.0) == policies
    assert read("rs") == {Reader("soup-0.25", (1.0,)): 1}
    assert read("rear") == {"plain": -1, OBJECTIVES[0]: 0.5, OBJECTIVES[1]: 1.5}


@pytest.mark.parametrize("method", ["genarm", "mod", "rear"])
def test_an_objective_that_is_not_asked_for_costs_no_forward(method: str):
    assert len(read(method, (1.0, 0.0))) == len(read(method)) - 1


def test_every_reader_is_trained_or_made():
    known = set(adapters(Path("work")))
    for method in DECODED:
        for alpha in ALPHAS:
            engine = ToyEngine()
            readers = [view.reader for view in views_of(engine, ITEM, method, alpha, 1.0)]
            assert {one.arm for one in readers if one is not None} <= known
    assert {one.name for one in TRAININGS} <= known


def test_the_pool_is_picked_from_by_the_sum_of_its_method():
    helpful, brief = OBJECTIVES
    long = {
        f"wish-{helpful}": -5.0,
        f"wish-{brief}": -30.0,
        f"arm-{helpful}": -1.0,
        f"arm-{brief}": -9.0,
    }
    short = {
        f"wish-{helpful}": -9.0,
        f"wish-{brief}": -8.0,
        f"arm-{helpful}": -6.0,
        f"arm-{brief}": -1.0,
    }
    pool = [
        RewardedSample(RewardedAnswer("p", "long", 1, {}), True, {"plain": -9.0, **long}),
        RewardedSample(RewardedAnswer("p", "short", 1, {}), True, {"plain": -9.0, **short}),
        RewardedSample(
            RewardedAnswer("p", "cut off", 1, {}), False, {"plain": 0.0, **dict.fromkeys(long, 0.0)}
        ),
    ]
    for method in PICKED:
        assert picked(method, [pool], (1.0, 0.0), 2.0)[0].text == "long"
        assert picked(method, [pool], (0.0, 1.0), 2.0)[0].text == "short"


def test_the_report_tells_strengths_costs_and_what_was_trained():
    rng = np.random.default_rng(0)
    methods = [*DECODED.values(), *PICKED.values()]
    alphas = np.array(ALPHAS)
    swept = [
        MethodRewards(method.title, alphas, rng.uniform(size=(len(ALPHAS), 12, 2)), 50.0)
        for method in methods
    ]
    training = {
        "parameters": {"trained": 1000, "share": 0.01},
        "steps": 7,
        "seconds": 3.0,
        "accuracies": {"helpful": 0.5},
    }
    report = fronts(swept, SCALE) | {
        "command": "preftilt arms-eval",
        "version": "0",
        "sizes": {"seed": 0, "epochs": 1, "tuning_prompts": 4},
        "pairs": {"train": 5},
        "strengths": {"parm": 4.0},
        "trainings": {one.name: training for one in TRAININGS},
        "keeping": {one.title: 0.5 for one in methods},
    }
    text = markdown(json.loads(json.dumps(report)), "front.png")
    assert "Made by `preftilt arms-eval`, seed 0" in text
    [parm] = [row for row in text.splitlines() if row.startswith("| PARM, guided")]
    assert parm.endswith("| 0.500 | 4 | 2 | 1,000 | 3 |")
    [genarm] = [row for row in text.splitlines() if row.startswith("| GenARM, guided")]
    assert genarm.endswith("| 1 + 2 | 2,000 | 6 |")
    assert "| parm | 1,000 | 1.00 % | 7 | 3 | helpful 0.50 |" in text
