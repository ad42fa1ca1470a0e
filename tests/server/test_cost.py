"""What a request can cost is told before it runs, and holds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from preftilt.api import Realigner
from preftilt.messages import Message
from preftilt.rivals import Judges
from preftilt.search import CFG, DVTS, BestOfN, Greedy, LinearAlignment, Sample, Search
from preftilt.server.explaining import cost, sampled_at_most
from preftilt.server.resolve import Job
from preftilt.server.work import check
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference
from tests.server.odd import Odd
from tests.server.serving import QUESTION, WISH, server_config, serving


@pytest.mark.parametrize("reuses", [True, False])
@pytest.mark.parametrize("wishes", [1, 2])
@pytest.mark.parametrize(
    "search",
    [
        BestOfN(n=5),
        Greedy(),
        Sample(),
        DVTS(subtrees=2, width=3),
        DVTS(width=2, max_steps=2),
        CFG(n=3),
        LinearAlignment(n=2),
    ],
)
def test_no_run_costs_more_than_was_told(search: Search, wishes: int, reuses: bool) -> None:
    engine = ToyEngine(sampler_logprobs=reuses)
    settings = replace(server_config().settings, search=search, max_tokens=20)
    preferences = tuple(Preference(str(i)) for i in range(wishes))
    for seed in range(15):
        job = Job(
            model="toy",
            messages=(Message("user", "Q?"),),
            preferences=preferences,
            settings=replace(settings, seed=seed),
        )
        told = cost(check(engine, job, Judges()), engine.capabilities)
        realigned = Realigner(engine, job.settings).realign(job.messages, preferences)
        usage: Any = asyncio.run(realigned).usage
        assert usage["sampled"] <= told["at_most"]["sampled"]
        assert sum(usage["scored"].values()) <= told["at_most"]["scored"]
        assert usage["prompt"] == told["prompt"]


@pytest.mark.parametrize(
    ("search", "passes"),
    [(CFG(n=4), 0), (CFG(n=4, strength_by="divergence"), 0), (BestOfN(n=4), 2)],
)
def test_picking_among_guided_draws_reads_nothing(search: Search, passes: int) -> None:
    engine = ToyEngine(sampler_logprobs=False, guided_logprobs=True)
    job = Job(
        model="toy",
        messages=(Message("user", "Q?"),),
        preferences=(Preference("short"),),
        settings=replace(server_config().settings, search=search, max_tokens=20),
    )
    told = cost(check(engine, job, Judges()), engine.capabilities)
    assert told["at_most"] == {"sampled": 80, "scored": 80 * passes}


def test_the_bound_of_a_tree_is_reached_by_one_that_wastes_all_it_can() -> None:
    # Two steps of width 2 and 3 tokens: the dropped siblings have 3 and 2, the answer 3.
    assert sampled_at_most(DVTS(subtrees=1, width=2, max_steps=2), 3) == (8, 6)


def test_the_cost_is_told_without_drawing_anything() -> None:
    engine = Odd()
    with serving(engine) as server, server.http as http:
        body = {"model": "toy:bon-8", "messages": QUESTION, "preftilt": WISH, "max_tokens": 10}
        told = http.post("/v1/preftilt/cost", json=body).json()
        bad = http.post("/v1/preftilt/cost", json=body | {"max_tokens": 10_000})
    assert told["candidates"] == 8
    assert told["at_most"] == told["if_even"] == {"sampled": 80, "scored": 80}
    assert bad.status_code == 400
    assert engine.requests == []
