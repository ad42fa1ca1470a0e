"""Picking whole answers beside guiding every token: what is chosen, on what, and what is told of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from preftilt.errors import BadInput
from preftilt.eval.benchmarks import open_benchmarks
from preftilt.eval.harness.benchmark import Opening
from preftilt.eval.report import markdown
from preftilt.eval.reproduce import token_level
from preftilt.eval.reproduce.experiments import TOKEN_LEVEL
from preftilt.eval.reproduce.figures import draw_figures
from preftilt.eval.reproduce.measured import (
    AnswerCost,
    ItemMeasurements,
    RecordedAnswer,
    SamplePool,
    answer_record,
    read_answer,
)
from preftilt.eval.reproduce.methods import OTHER_SCORES
from preftilt.eval.reproduce.parts import MeasureSettings, drawn_guidance
from preftilt.eval.reproduce.report import blocks
from preftilt.eval.reproduce.running import reproduce
from preftilt.plots.curves import lambda_axis
from preftilt.testing.toy import ToyEngine
from tests.eval.test_reproduce import answer, found, own_benchmark, plan, report_of, sight
from tests.eval.test_reproduce import toy as toy  # the fixture

HOW = MeasureSettings(protocol=own_benchmark().protocol, n=2, guided_lambdas=(2.0,), drawn=2)


def told(question: list[float], gain: list[float], **rest: Any) -> RecordedAnswer:
    """An answer with the log-probs of its tokens."""
    return answer(
        rest.pop("text", "an answer"), sum(question), sum(gain), length=len(gain),
        questions=np.array(question), gains=np.array(gain), **rest,
    )  # fmt: skip


SHORT, LONG = told([-1.0, -1.0], [0.5, 0.5]), told([-1.0] * 4, [3.0, 0.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("name", "lam", "scores"),
    [
        ("length penalty", 2.0, [0.0, 3.0 / (9 / 6) ** 0.6]),
        ("clipped gain", 2.0, [0.0, -4.0 + 2 * 2.5]),
        ("clipped gain", math.inf, [1.0, 2.5]),
        ("common prefix", 1.0, [-1.0, -2.0 + 3.0]),
    ],
)
def test_scores_that_were_tried_are_what_they_say(name: str, lam: float, scores: list[float]):
    assert OTHER_SCORES[name]([SHORT, LONG], lam) == pytest.approx(scores)


def test_an_answers_tokens_survive_their_record():
    again = read_answer(json.loads(json.dumps(answer_record(LONG))))
    assert again.gains.tolist() == LONG.gains.tolist()
    assert again.questions.tolist() == LONG.questions.tolist()
    without = answer("plain", -3.0, 1.0)
    assert "gains" not in answer_record(without)


GOOD, BAD = answer("good", -9.0, 2.0), answer("bad", -5.0, 0.0)


def items(count: int, *drawn: RecordedAnswer) -> list[ItemMeasurements]:
    draws = {drawn_guidance(2.0): SamplePool((BAD, GOOD), frozenset())}
    return [found(number, *drawn, draws=draws) for number in range(count)]


def test_the_best_member_of_each_family_is_chosen_on_the_items_it_is_shown(tmp_path: Path):
    validation = items(4, BAD, GOOD)
    among = token_level.families(HOW)
    members = [member for family in among for member in family.members]
    seen = sight(validation, members, tmp_path)
    chosen = {member.name: member for member in token_level.chosen(seen, among)}
    # S of the good answer passes that of the bad one at λ = 2, where ties go to the first drawn.
    assert chosen["best-of-2, sum, cut off last"].lam == 3.0
    assert chosen["guided draws at λ = 2, best of 2 by sum"].lam == 3.0
    assert "guided, greedy" not in chosen  # It was not measured.


def test_guided_draws_cost_two_readings_a_token():
    [item] = items(1, BAD, GOOD)
    [pool] = item.draws.values()
    assert pool.guided(2) == AnswerCost(20, 20)
    assert item.tokens == 20 + 20 + 20 + 20  # The unguided pool: drawn, and scored under one view.


def test_cut_off_answers_win_only_where_their_rule_lets_them(tmp_path: Path):
    cut = answer("good", -9.0, 9.0, finished=False)
    item = found(0, BAD, cut)
    families = {family.name: family.members for family in token_level.families(HOW)}
    texts = {
        rule: families[f"best-of-2, sum, cut off {rule}"][4].pick(item)[0].text
        for rule in ("last", "as-is")
    }
    assert texts == {"last": "bad", "as-is": "good"}


def test_what_is_chosen_is_measured_on_validation_items_alone(toy: ToyEngine, tmp_path: Path):
    report = report_of(tmp_path, 6, experiments=[TOKEN_LEVEL])
    report = json.loads(json.dumps(report, allow_nan=False))
    [world] = report["benchmarks"]
    data = world[TOKEN_LEVEL]
    assert {row["items"] for row in data["validation"]["rows"]} == {6}
    rows = {(row["method"], row["lam"]): row for row in data["tables"]["greedy"]["rows"]}
    assert rows["guided, greedy", 2.0]["items"] == 4
    assert rows["guided draws at λ = 2, random of 4", None]["scored"] > 0
    assert rows["guided, greedy", 2.0]["seconds"] > 0
    assert rows["any of 4 (oracle)", None]["over"] is None
    assert any(row["chosen"] for row in rows.values())
    pictures = draw_figures(report, tmp_path)
    assert len(pictures["demo-world", TOKEN_LEVEL]) == 3
    text = markdown(blocks(report, pictures))
    assert "Validation items: what was chosen from" in text
    counts = dict(toy.counts)
    again = report_of(tmp_path, 6, experiments=[TOKEN_LEVEL])
    assert json.loads(json.dumps(again)) == report
    assert toy.counts == counts


def test_without_validation_items_nothing_is_chosen(toy: ToyEngine, tmp_path: Path):
    world = open_benchmarks(("demo-world",), Opening(limit=2))
    made = plan(tmp_path, experiments=[TOKEN_LEVEL])
    report = reproduce(made, world, "preftilt reproduce demo-world", lambda *_: None)
    data = report["benchmarks"][0][TOKEN_LEVEL]
    assert "validation" not in data
    assert not any(row["chosen"] for row in data["tables"]["greedy"]["rows"])


def test_a_judged_benchmark_is_refused_as_every_answer_needs_a_verdict(
    toy: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    judged = replace(own_benchmark(), check=None, judge=lambda some: [])
    made = plan(tmp_path, experiments=[TOKEN_LEVEL])
    with pytest.raises(BadInput, match="own is judged, and token-level has a verdict on every"):
        reproduce(made, [judged], "", lambda *_: None)


def test_a_lambda_of_0_has_its_place_on_the_axis() -> None:
    """On a logarithmic one alone it would be left out, and its line drawn as if it went on."""
    axes = Figure().subplots()
    lambda_axis(axes, [0.0, 1.5, 3.0])
    places = [float(axes.transData.transform((lam, 0.0))[0]) for lam in (0.0, 1.5, 3.0)]
    assert places == sorted(set(places))
    assert axes.get_xlim()[0] <= 0
