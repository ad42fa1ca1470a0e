"""Requests take turns for rows, so that none waits for all candidates of another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from preftilt.engines.admission import ROWS_PER_TURN, rows_by_turn_end
from preftilt.engines.transformers.jobs import DrawJob, draw_job
from preftilt.engines.transformers.scheduler import TransformersScheduler
from tests.engine.asking import draw, prompt, request, tokens
from tests.engine.conftest import Opened


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
    alone = tokens(await draw(engine, prompt(20, 9), 1, item="late"))
    engine.close()  # From here on the test takes the worker's place.
    path: Any = engine._worker._path
    assert isinstance(path, TransformersScheduler)
    with torch.inference_mode():
        crowd = [draw_job(request(prompt(20, number), 64, item=f"{number}")) for number in range(6)]
        path.add(crowd)
        for _ in range(4):
            path.turn()
        before = [job.started for job in crowd]
        late: DrawJob = draw_job(request(prompt(20, 9), 1, item="late"))
        path.add([late])
        while not late.started:
            path.turn()
        assert sum(job.started for job in crowd) - sum(before) <= ROWS_PER_TURN * len(crowd)
        assert (
            max(job.started for job in crowd) - min(job.started for job in crowd) <= ROWS_PER_TURN
        )
        while not path.idle:
            path.turn()
        assert all(len(job.future.result()) == 64 for job in crowd)
        assert tokens(late.future.result()) == alone
