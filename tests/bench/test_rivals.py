"""The bench of what choosing costs: its reward model opens and scores, its sweep reads off everything it says."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from bench.report import circumstances
from bench.rivals import LAMBDAS, REDUCTIONS, SIZES, markdown, sweep, write_reward_model
from bench.serving.rows import RatioRow

import preftilt as pt
from preftilt.rivals.reward_models import open_reward_model
from preftilt.testing.toy import ToyEngine

pytestmark = pytest.mark.model


def test_the_reward_model_opens_as_any_other_and_tells_responses_apart(tmp_path: Path):
    model = open_reward_model(str(write_reward_model(tmp_path / "reward")))
    try:
        messages = [pt.Message("user", "What could I cook?")]
        rated = asyncio.run(model.score([(messages, "Soup."), (messages, "A salad with nuts.")]))
    finally:
        model.close()
    first, second = rated.scores
    assert first is not None
    assert second is not None
    assert math.isfinite(first)
    assert first != second


def test_the_sweep_reads_off_every_lambda_size_and_reduction():
    settings = pt.Settings(search=pt.BestOfN(n=max(SIZES)), max_tokens=6)
    request = [pt.Message("user", "How?")], [pt.Preference("No games.")]
    result = asyncio.run(pt.Realigner(ToyEngine(), settings).realign(*request))
    assert sweep(result) == len(LAMBDAS) * len(SIZES) * len(REDUCTIONS)


def test_a_row_without_an_aim_says_so():
    row = RatioRow("generative", "judge ÷ REAR", None)
    row.add(3.0, 2.0)
    text = markdown(circumstances("cpu", 0, "python -m bench.rivals"), [row])
    assert "| judge ÷ REAR | – | **1.50** (1.50–1.50, n 1) | 3 s | 2 s |" in text
    assert "- command: python -m bench.rivals" in text
