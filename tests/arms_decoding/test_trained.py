"""From preference pairs to answers: what a reward model was taught decides, as its preference vector says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from preftilt.api import Realigner, Settings
from preftilt.arm.spec import Objective
from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import open_transformers
from preftilt.messages import Message
from preftilt.settings import ArmSettings
from preftilt.train import TrainSettings, train
from tests.engine.models import save
from tests.train.conftest import rows, write

pytestmark = pytest.mark.model

KIND, BRIEF = Objective("kind", "Kind.", 0.5), Objective("brief", "Brief and to the point!", 0.5)
TOLD = ("yes, sun!", "no.")


def test_a_trained_reward_model_ranks_as_it_was_taught(tmp_path: Path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.1}
    model = save(tmp_path / "tiny", "llama", **sizes)
    settings = TrainSettings(
        method="parm",
        model=model,
        objectives=(KIND, BRIEF),
        targets=("q_proj", "v_proj", "o_proj", "down_proj"),
        epochs=40,
        batch_size=4,
        lr=0.02,
        warmup=3,
        dropout=0.0,
        patience=0,
        validation=0.0,
    )
    train(write(tmp_path / "pairs.jsonl", rows()), tmp_path / "parm", settings)
    engine = open_transformers(model, EngineOptions(arms={"pku": str(tmp_path / "parm")}))
    try:
        for alpha, best in (("kind=1,brief=0", TOLD[0]), ("kind=0,brief=1", TOLD[1])):
            arms = ArmSettings(names=("pku",), alpha=alpha, weight=20.0)
            realigner = Realigner(engine, Settings(arms=arms))
            ranked = asyncio.run(realigner.score([Message("user", "sun?")], [], TOLD))
            assert ranked.text == best
    finally:
        engine.close()
