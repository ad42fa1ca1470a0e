"""Requests take turns for rows, so that none waits for all candidates of another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from preftilt.engines.transformers.jobs import draw_job
from preftilt.engines.transformers.scheduler import TransformersScheduler
from preftilt.engines.worker import rows_by_turn_end
from tests.engine.asking import draw, prompt, request, tokens
from tests.engine.conftest import Opened
from tests.engine.turn_law import one_candidate_waits_for_a_turn_of_every_request


def test_a_turn_ends_after_so_many_rows_or_with_the_last_one() -> None:
    assert [rows_by_turn_end(started, 20, alone=False) for started in (0, 3, 8, 16)] == [
        8,
        8,
        16,
        20,
    ]
    assert rows_by_turn_end(3, 20, alone=True) == 20


@pytest.mark.model
async def test_one_candidate_waits_for_a_turn_of_every_request_not_for_all_their_candidates(
    opened: Opened,
) -> None:
    engine = opened(max_rows=16)
    [alone] = tokens(await draw(engine, prompt(20, 9), 1, item="late"))
    engine.close()  # From here on the test takes the worker's place.
    path: Any = engine._worker._scheduler
    assert isinstance(path, TransformersScheduler)
    with torch.inference_mode():
        crowd = [draw_job(request(prompt(20, number), 64, item=f"{number}")) for number in range(6)]
        late = draw_job(request(prompt(20, 9), 1, item="late"))
        one_candidate_waits_for_a_turn_of_every_request(path, crowd, late, alone)
