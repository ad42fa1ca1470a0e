"""The demo benchmark's machinery, on a toy model whose answers are nonsense but whose numbers are exact."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from preftilt.demo.world import items
from preftilt.eval.demo.choose import Method, baselines, best_of, best_of_n, dvts, oracle, tuned
from preftilt.eval.demo.collect import (
    LAMBDAS,
    POOL,
    Answer,
    Draws,
    Record,
    Task,
    collect,
    plan,
    read,
)
from preftilt.eval.demo.figures import draw
from preftilt.eval.demo.markdown import markdown
from preftilt.eval.demo.report import Measured, report_json
from preftilt.reward import Reward
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from preftilt.types import Sampling


def answer(q: float, gain: float, *, length: int = 10, helpful: bool = True, **rest) -> Answer:
    known = {"text": "", "finished": True, "violates": False, "cause": None} | rest
    return Answer(length=length, question_logprob=q, preference_gain=gain, helpful=helpful, **known)


def record(id: str, pool: list[Answer]) -> Record:
    trees = {
        reduction: {
            str(lam): best_of(pool[:16], lam, Reward(reduction=reduction)) for lam in LAMBDAS
        }
        for reduction in ("sum", "mean")
    }
    return Record(id, "?", "!", "avoid", "seen", pool[0], tuple(pool), trees)


def made_up(n: int, seed: int = 0) -> list[Record]:
    """Items where the preference gain tells following answers apart, better at moderate λ."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        good = rng.random(POOL) < 0.4
        pool = [
            answer(
                float(-20 + 5 * rng.standard_normal()),
                float(3 * good[j] + rng.standard_normal()),
                helpful=bool(rng.random() < 0.9),
                violates=not good[j],
            )
            for j in range(POOL)
        ]
        made.append(record(f"i{i}", pool))
    return made


def test_best_of_prefers_finished_then_score_then_the_first_drawn():
    cut = answer(0.0, 0.0, finished=False)
    low, high, same = answer(-5.0, 0.0), answer(-4.0, 0.0), answer(-4.0, 0.0, text="later")
    assert best_of([cut, low, high, same], 1.0, Reward()) is high
    assert best_of([cut], 1.0, Reward()) is cut
    short, long = answer(-4.0, 0.0, length=4), answer(-5.0, 0.0, length=20)
    assert best_of([short, long], 1.0, Reward()) is short
    assert best_of([short, long], 1.0, Reward(reduction="mean")) is long


def test_random_of_n_is_an_exact_expectation():
    [random] = [one for one in baselines() if one.name == "random of N"]
    pool = [answer(0, 0, helpful=j < 4) for j in range(POOL)]
    assert random.values([record("a", pool)], "helpful") == pytest.approx([4 / 16])


def test_the_oracle_bounds_every_method():
    records = made_up(30)
    top = oracle().values(records, "following")
    methods: list[Method] = [*baselines(), best_of_n(3.0, "sum"), dvts(5.0, "mean")]
    for method in methods:
        assert (method.values(records, "following") <= top + 1e-12).all()


def test_lambda_is_tuned_on_the_records_it_is_given_alone():
    records = made_up(60)
    chosen = tuned(best_of_n, "sum", records)
    means = [best_of_n(lam, "sum").values(records, "following").mean() for lam in LAMBDAS]
    assert chosen.lam == LAMBDAS[int(np.argmax(means))]


def test_the_report_averages_models_and_pairs_differences():
    one, other = made_up(40, seed=1), made_up(40, seed=2)
    models = [Measured("a", one, one), Measured("b", other, other)]
    report = report_json(models, Draws(sampling=Sampling(top_p=0.9)))
    greedy = report["rows"][0]
    assert greedy["per_model"] == pytest.approx(
        [np.mean([item.greedy.following for item in records]) for records in (one, other)]
    )
    assert greedy["following"]["mean"] == pytest.approx(np.mean(greedy["per_model"]))
    assert greedy["beyond_greedy"]["mean"] == 0
    text = markdown(json.loads(json.dumps(report)), "preftilt demo-eval")
    for row in report["rows"]:
        assert f"\n| {row['name']}" in text
    assert "\n| greedy |" in text
    assert "temperature 1, top-p 0.9." in text


def test_the_figures_are_drawn_from_a_report_alone(tmp_path: Path):
    records = made_up(20)
    report = report_json([Measured("a", records, records)], Draws())
    for path in draw(json.loads(json.dumps(report)), tmp_path):
        assert path.stat().st_size > 10_000


def test_collecting_resumes_where_it_was_killed(tmp_path: Path):
    engine, path = ToyEngine(hashed_bigrams(2)), tmp_path / "records.jsonl"
    few = items("validation")[:3]
    tasks = plan(few, Draws())
    asyncio.run(collect(engine, tasks, path, Draws()))
    whole = {one.id: one for one in read(path)}
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2])  # a kill in the middle of a write
    drawn = engine.counts["sampled"]
    asyncio.run(collect(engine, tasks, path, Draws()))
    assert {one.id: one for one in read(path)} == whole
    assert set(whole) == {one.id for one in few}
    assert 0 < engine.counts["sampled"] - drawn < drawn


def test_tree_searches_run_on_the_first_items_only():
    few = items("validation")[:3]
    assert [task.trees for task in plan(few, Draws(trees=2))] == [True, True, False]
    assert all(task.trees for task in plan(few, Draws()))


def test_a_collected_record_holds_the_pool_in_slot_order_and_every_tree(tmp_path: Path):
    [item] = items("test")[:1]
    asyncio.run(collect(ToyEngine(), [Task(item)], tmp_path / "one.jsonl", Draws()))
    [made] = read(tmp_path / "one.jsonl")
    assert len(made.pool) == POOL
    assert set(made.trees["sum"]) == {str(lam) for lam in LAMBDAS}
    assert not made.greedy.following
