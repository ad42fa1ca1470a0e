"""A whole study on the toy model: records, resuming, the report, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput, PromptTooLong
from preftilt.eval.accuracy.evaluate import StudyOptions, policy_accuracy, write_report
from preftilt.eval.accuracy.rules import parse_rules
from preftilt.testing.toy import ToyEngine
from tests.accuracy.toys import COMPARISONS, Counting, comparison, reading
from tests.cli.toys import Slow

NAMES = ["base", "prompted", "rear=20", "amulet", "la-author", "icl=2", "reward-model"]


async def study(out: Path, engine: Any = None, names=NAMES, items=COMPARISONS, **more: Any):
    given = {"lambdas": (0.0, 1.0, 3.0), "seed": 1} | more
    rules = parse_rules(names)
    return await policy_accuracy(reading(engine), items, rules, out, StudyOptions(**given))


def row(report: dict, rule: str) -> dict[str, Any]:
    [found] = [one for one in report["rules"] if one["rule"] == rule]
    return found


async def test_the_report_counts_what_was_compared(tmp_path: Path):
    report = await study(tmp_path)
    assert (report["comparisons"], report["pairs"], report["users"]) == (12, 36, 4)
    for one in report["rules"]:
        own = one["accuracy"][one["mode"]]
        assert 0 <= own["low"] <= own["mean"] <= own["high"] <= 1
        assert own["n"] + own["unscored"] == 36
    assert row(report, "base")["reward_accuracy"] is None
    assert row(report, "icl=2")["examples"] == 2.0
    assert 0 < row(report, "la-author")["coverage"] < 1
    assert set(report["groups"]) == {"even", "odd"}


async def test_lambda_one_is_the_model_told_in_words_and_lambda_zero_the_model_told_nothing(
    tmp_path,
):
    report = await study(tmp_path)
    zero, one, _ = report["sweep"]
    for mode in ("unnormalised", "policy", "mean"):
        assert one["accuracy"][mode] == row(report, "prompted")["accuracy"][mode]
        assert zero["accuracy"][mode] == row(report, "base")["accuracy"][mode]


async def test_swapping_every_pair_gives_one_less_the_accuracy(tmp_path: Path):
    items = [comparison(number, rejected=("not maths.",)) for number in range(4)]
    items = [one for one in items if one.chosen != "not maths."]
    swapped = [
        comparison(int(one.id), chosen="not maths.", rejected=(one.chosen,)) for one in items
    ]
    there = await study(tmp_path / "a", items=items)
    back = await study(tmp_path / "b", items=swapped)
    for name in NAMES:
        mode = row(there, name)["mode"]
        first, second = (row(each, name)["accuracy"][mode]["mean"] for each in (there, back))
        assert first == pytest.approx(1 - second)


async def test_a_reward_s_accuracy_is_that_of_the_reward_alone(tmp_path: Path):
    report = await study(tmp_path)
    model = Counting()
    hits = 0.0
    for one in COMPARISONS:
        chosen, *others = (await model.score([((), text) for text in one.responses])).scores
        hits += sum(0.5 if chosen == each else chosen > each for each in others)  # pyright: ignore
    found = row(report, "reward-model")
    assert found["reward_accuracy"]["mean"] == pytest.approx(hits / 36)
    assert found["accuracy"]["policy"] is found["accuracy"]["mean"] is None
    assert found["accuracy"]["unnormalised"]["mean"] == found["reward_accuracy"]["mean"]


async def test_tau_is_over_the_methods_that_have_both_and_refused_for_two(tmp_path: Path):
    report = await study(tmp_path / "a")
    assert report["tau"]["own"]["methods"] == [one for one in NAMES if one != "base"]
    assert report["tau"]["own"]["value"] is not None
    few = await study(tmp_path / "b", names=["base", "rear=3", "amulet"])
    assert few["tau"]["own"]["refused"] == "2 methods have both accuracies; 3 are needed"


async def test_names_with_a_line_separator_are_read_back_and_resumed(tmp_path: Path):
    items = [comparison(0, id="a\u2028b", user="c\x85", group="d\u2029"), comparison(1)]
    whole = await study(tmp_path, items=items)
    assert whole["groups"].keys() == {"d\u2029", "odd"}
    assert await study(tmp_path, items=items, resume=True) == whole


async def test_records_are_resumed_and_nothing_is_measured_twice(tmp_path: Path):
    whole = await study(tmp_path)
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]) + lines[7][:20])
    engine = ToyEngine()
    again = await study(tmp_path, engine, resume=True)
    assert again == whole
    fresh = ToyEngine()
    await study(tmp_path / "fresh", fresh)
    assert 0 < engine.counts["scored"] < fresh.counts["scored"]
    untouched = ToyEngine()
    assert await study(tmp_path, untouched, resume=True) == whole
    assert untouched.counts["scored"] == 0


async def test_records_of_another_study_are_refused(tmp_path: Path):
    await study(tmp_path)
    with pytest.raises(BadInput, match="--resume goes on with it"):
        await study(tmp_path)
    with pytest.raises(BadInput, match="exclude each other"):
        await study(tmp_path, resume=True, force=True)
    with pytest.raises(BadInput, match=r'line 1 \(id "\d+"\) was made otherwise'):
        await study(tmp_path, names=["base"], resume=True)
    other = [comparison(number, chosen="win maths") for number in range(12)]
    with pytest.raises(BadInput, match="was made otherwise"):
        await study(tmp_path, items=other, resume=True)
    await study(tmp_path, names=["base"], force=True)


async def test_an_engine_that_cannot_normalise_leaves_the_policy_out_and_says_so(tmp_path: Path):
    report = await study(tmp_path / "a", Slow(), names=["base", "rear=3", "amulet"])
    assert report["modes"] == ["unnormalised", "mean"]
    assert row(report, "amulet")["mode"] == "unnormalised"
    assert "policy mode is left out" in report["notes"][0]
    with pytest.raises(BadInput, match="cannot normalise over the vocabulary"):
        await study(tmp_path / "b", Slow(), names=["base"], modes=("policy",))


async def test_pairs_longer_than_the_context_are_refused_or_left_out(tmp_path: Path):
    engine = ToyEngine(max_context=30)
    items = [*COMPARISONS[:3], comparison(9, chosen="maths" * 40)]
    with pytest.raises(PromptTooLong, match=r"row 9: .*\(1 of 4 comparisons are too long"):
        await study(tmp_path, engine, items=items)
    assert not (tmp_path / "records.jsonl").exists()
    report = await study(tmp_path, engine, items=items, drop_long=True)
    assert report["comparisons"] == 3
    assert report["left_out"] == {"too long for the model's context": 1}


async def test_the_written_report_says_what_the_json_says(tmp_path: Path):
    report = await study(tmp_path)
    text = write_report(report, tmp_path, "preftilt policy-accuracy …")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    own = row(report, "rear=20")["accuracy"]["unnormalised"]
    assert f"**{100 * own['mean']:.1f} [" in text
    assert "| λ | unnormalised | policy | mean |" in text
    with (tmp_path / "users.csv").open() as file:
        users = list(csv.DictReader(file))
    assert len(users) == 4
    of_user = [float(one["rear=20"]) * int(one["pairs"]) for one in users]
    assert sum(of_user) / 36 == pytest.approx(own["mean"], abs=1e-3)
