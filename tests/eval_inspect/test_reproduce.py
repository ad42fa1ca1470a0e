"""Experiments on judged benchmarks: a judge behind an API judges the answers that were picked, each once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, PreftiltError
from preftilt.eval.benchmarks import open_benchmarks
from preftilt.eval.harness.benchmark import Opening
from preftilt.eval.reproduce import collecting, verdicts
from preftilt.eval.reproduce.collecting import MeasuredModels
from preftilt.eval.reproduce.parts import MeasureSettings
from preftilt.eval.reproduce.running import ItemCounts, ReproducePlan, reproduce
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams
from tests.eval.mmhal_files import rows, write_pictures, write_rows
from tests.eval.test_maths import aime
from tests.eval.test_maths import write as write_maths
from tests.eval_inspect.conftest import JUDGE, WORDS
from tests.eval_inspect.judge_server import JudgeServer


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyEngine:
    words = (*WORDS, "Preferred:", "Yes", "No", "yes", "no")
    engine = ToyEngine(
        next_logprobs=hashed_bigrams(0, vocabulary=len(words)), tokenizer=ToyTokenizer(words)
    )
    monkeypatch.setattr(ToyEngine, "close", lambda self: None, raising=False)
    monkeypatch.setattr(collecting, "open_engine", lambda name, options: engine)
    return engine


def run(folder: Path, names: tuple[str, ...], data: str, *wanted: str, **opening: Any):
    how = replace(Opening(data=data, limit=3, logs=str(folder / "logs"), judge=JUDGE), **opening)
    models = MeasuredModels(model="toy", options=EngineOptions(), identity={}, raters={})
    plan = ReproducePlan(
        experiments=wanted, models=models,
        measure=MeasureSettings(settings={"max_tokens": 8}, pool=4, n=4, judge_tokens=6),
        inserted=(0, 2), sizes=ItemCounts(timed=1), processes=1,
        reference="greedy", records=folder / "records", judged_by=how.judge, repeats=1,
    )  # fmt: skip
    report = reproduce(plan, open_benchmarks(names, how), "preftilt reproduce", lambda *_: None)
    return json.loads(json.dumps(report, allow_nan=False))["benchmarks"]


def test_picked_answers_are_judged_once_and_kept(judge: JudgeServer, tmp_path: Path, data: str):
    [first] = run(tmp_path, ("prefeval-explicit",), data, "table1", "fig3")
    rows = {one["method"]: one for one in first["tables"]["table1"]["rows"]}
    greedy = rows["greedy"]
    assert (greedy["items"], greedy["judge_calls"]) == (3, 2.0)
    assert "any of 4 (oracle)" not in rows  # it would have every sample judged
    assert set(greedy["metrics"]) == {"following", "unhelpful", "violates"}
    helpful_and_kept = 1 - greedy["metrics"]["unhelpful"]["mean"], greedy["metrics"]["violates"]["mean"]  # fmt: skip
    assert greedy["metrics"]["following"]["mean"] <= min(
        helpful_and_kept[0], 1 - helpful_and_kept[1]
    )
    assert first["switches"]["preset"] == "rear-paper"
    assert "plane" in first["figures"]["fig3"]
    [kept] = (tmp_path / "records").glob("*-verdicts-*.jsonl")
    count = kept.read_bytes().count(b"\n")
    assert judge.asked == 2 * count
    assert judge.contacts == 1
    assert list((tmp_path / "logs").glob("*.eval"))
    again = run(tmp_path, ("prefeval-explicit",), data, "table1", "fig3")
    assert again == [first]
    assert judge.asked == 2 * count
    stricter = {"switches": {"judge_junk": "official"}}
    run(tmp_path, ("prefeval-explicit",), data, "table3", **stricter)
    assert len([*(tmp_path / "records").glob("*-verdicts-*.jsonl")]) == 2


def test_a_judgement_that_failed_is_no_score_and_is_asked_for_again(
    judge: JudgeServer, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    judge.junk = True
    [first] = run(tmp_path, ("prefeval-persona",), data, "table3")
    [greedy, *_] = first["tables"]["table3"]["rows"]
    assert (greedy["items"], greedy["unjudged"], greedy["metrics"]) == (0, 3, {})
    judge.junk = False
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "another cache"))  # it has the junk
    [second] = run(tmp_path, ("prefeval-persona",), data, "table3")
    [greedy, *_] = second["tables"]["table3"]["rows"]
    assert (greedy["items"], greedy["unjudged"]) == (3, 0)


def test_a_budget_of_judge_calls_is_one_for_all_rounds_and_leaves_the_rest_without_a_verdict(
    judge: JudgeServer, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verdicts, "AT_ONCE", 2)
    [first] = run(tmp_path, ("prefeval-explicit",), data, "table3", max_judge_calls=3)
    assert judge.asked == 3
    rows = first["tables"]["table3"]["rows"]
    assert any(one["unjudged"] for one in rows)


def test_choices_and_mathematics_need_no_judge(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    write_maths(tmp_path / "maths", "aime24.jsonl", aime(30, "7"))
    choice, maths = (
        run(tmp_path, (name,), str(folder), "table1", "table2", "fig5", judge=None)[0]
        for name, folder in (("prefeval-choice", data), ("aime24", tmp_path / "maths"))
    )
    rows = {one["method"] for one in choice["tables"]["table1"]["rows"]}
    assert {"majority of 4", "weighted vote of 4", "any of 4 (oracle)"} <= rows
    assert [one["inserted"] for one in choice["tables"]["table2"]] == [0, 2]
    assert [one["inserted"] for one in maths["tables"]["table2"]] == [0]  # nothing can be inserted
    assert maths["metrics"] == ["correct", "no answer"]


def test_a_judge_that_is_missing_or_cannot_be_opened_is_refused(tmp_path: Path, data: str):
    with pytest.raises(BadInput, match="prefeval-explicit needs a judge: name an Inspect model"):
        run(tmp_path, ("prefeval-explicit",), data, "table3", judge=None)
    with pytest.raises(PreftiltError, match="cannot be asked"):
        run(tmp_path, ("prefeval-explicit",), data, "table3", judge="openai-api/nowhere/x")


def test_a_judge_that_does_not_answer_is_refused_before_anything_is_drawn(
    judge: JudgeServer, toy: ToyEngine, tmp_path: Path, data: str
):
    judge.key = "another"
    with pytest.raises(PreftiltError, match=r"cannot be asked: .*no such key"):
        run(tmp_path, ("demo-world", "prefeval-explicit"), data, "table3")
    assert (judge.contacts, judge.asked, toy.counts["sampled"]) == (1, 0, 0)


def test_pictures_stand_in_the_questions_about_them(tmp_path: Path):
    write_pictures(tmp_path, count=2)
    data = write_rows(tmp_path, rows())
    [mmhal] = open_benchmarks(("mmhal",), Opening(data=data, limit=2, judge=JUDGE))
    first, second = mmhal.test(0)
    assert (first.target, mmhal.fault) == ("It is thing 0.", "hallucinated")
    assert first.request.messages[0].images
    assert first.key != second.key
