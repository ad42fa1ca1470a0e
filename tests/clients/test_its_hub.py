"""The scorer for its_hub, in the clients' environment: its best-of-N picks what REAR picks."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

import preftilt as pt
from preftilt.testing.toy import ToyEngine
from tests.clients.asking import HERE, PYTHON, REMEDY

pytestmark = pytest.mark.clients

ANSWERS = ["draw", "read not", "play maths", "sleep", "read not", "win."]
QUESTION = {"role": "user", "content": "How do I study maths?"}
SYSTEM = {"role": "system", "content": "No games."}
REQUESTS: list[dict[str, Any]] = [
    {"preference": "No games.", "messages": [QUESTION], "answers": ANSWERS},
    {"preference": None, "messages": [SYSTEM, QUESTION], "answers": ANSWERS},
]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    assert PYTHON.exists(), f"no its_hub ({PYTHON}): {REMEDY}"
    done = subprocess.run(
        [str(PYTHON), str(HERE / "its_hub_ask.py"), json.dumps(REQUESTS)],
        env=os.environ,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("number", [0, 1])
def test_best_of_n_picks_what_rear_scores_highest(number: int, said: dict[str, Any]) -> None:
    result = asyncio.run(
        pt.Realigner(ToyEngine(), pt.Settings(lam=4)).score(
            [pt.Message("user", QUESTION["content"])], [pt.Preference("No games.")], ANSWERS
        )
    )
    want = {candidate.slot: candidate.score for candidate in result.candidates}
    reply = said["replies"][number]
    assert reply["answers"] == ANSWERS
    assert reply["scores"] == pytest.approx([want[slot] for slot in range(len(ANSWERS))])
    assert reply["answers"][reply["selected"]] == result.text


def test_one_conversation_has_one_score(said: dict[str, Any]) -> None:
    assert said["single"] == pytest.approx(said["replies"][0]["scores"][0])
