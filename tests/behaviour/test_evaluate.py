"""A whole comparison on the toy model: records, intervals, discrimination beside generation, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftilt.cli import configure
from preftilt.errors import BadInput
from preftilt.eval.accuracy.behaviour import AnswerSettings, behaviour, parse_methods, write_report
from preftilt.eval.accuracy.behaviour_report import rouge, settings
from preftilt.eval.accuracy.evaluate import StudyOptions
from preftilt.testing.toy import ToyEngine
from tests.accuracy.toys import COMPARISONS, comparison, reading
from tests.cli.conftest import Cli, real_cli, rows

__all__ = ["real_cli", "rows"]

NAMES = ["base", "icl=2", "rear-icl=3", "prompted", "rear=3", "linear-alignment"]
DRAWING = AnswerSettings(n=3, max_tokens=8)


async def run(out: Path, engine: Any = None, items=COMPARISONS, names=NAMES, **more: Any):
    given: dict[str, Any] = {
        name: more.pop(name) for name in ("reference", "verdict") if name in more
    }
    settings: dict[str, Any] = {"seed": 1} | more
    options = StudyOptions(**settings)
    methods = parse_methods(names, DRAWING)
    return await behaviour(reading(engine), items, methods, out, DRAWING, options, **given)


def test_rouge_by_hand():
    """Stems: play, game(s), is, fun; of the other: play, a, game. Two of four and of three, one pair of words."""
    found = rouge("Playing games is fun.", " play a game ")
    assert found["rouge1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"] == 0.0
    assert found["rougeL"] == found["rouge1"]
    assert rouge("same words", "Same words!") == dict.fromkeys(("rouge1", "rouge2", "rougeL"), 1.0)
    assert rouge("something", "") == dict.fromkeys(("rouge1", "rouge2", "rougeL"), 0.0)
    assert settings()["stemmer"] == "Porter"


async def test_the_report_is_what_the_records_say(tmp_path: Path):
    report = await run(tmp_path)
    records = [json.loads(one) for one in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert (report["questions"], report["users"], report["reference"]) == (12, 4, "icl=2")
    by_id = {one["id"]: one for one in records}
    for row in report["methods"]:
        answers = [by_id[one.id]["methods"][row["method"]] for one in COMPARISONS]
        for one, answer in zip(COMPARISONS, answers, strict=True):
            assert answer["scores"] == rouge(one.chosen, answer["text"])
        scores = [answer["scores"]["rouge1"] for answer in answers]
        assert row["scores"]["rouge1"]["mean"] == pytest.approx(np.mean(scores))
        base = [by_id[one.id]["methods"]["icl=2"]["scores"]["rouge1"] for one in COMPARISONS]
        if row["method"] == "icl=2":
            assert row["beyond_reference"] is None
        else:
            difference = row["beyond_reference"]["rouge1"]["mean"]
            assert difference == pytest.approx(np.mean(np.subtract(scores, base)))


async def test_discrimination_stands_beside_generation(tmp_path: Path):
    report = await run(tmp_path)
    beside = json.loads((tmp_path / "discrimination" / "records.jsonl").read_text().splitlines()[0])
    assert set(beside["rules"]) == set(NAMES)
    for row in report["methods"]:
        assert 0 <= row["policy_accuracy"]["mean"] <= 1
    assert set(report["tau"]) == {"rouge1", "rouge2", "rougeL"}
    assert report["tau"]["rougeL"]["methods"] == len(NAMES)


async def test_questions_without_a_dispreferred_response_have_no_discrimination(tmp_path: Path):
    items = [comparison(number, rejected=()) for number in range(4)]
    report = await run(tmp_path, items=items)
    assert all(row["policy_accuracy"] is None for row in report["methods"])
    assert report["tau"] == {}
    assert not (tmp_path / "discrimination").exists()
    assert "Discrimination beside" not in write_report(report, tmp_path, "…")


async def test_a_method_that_is_the_reference_under_another_name_differs_by_nothing(tmp_path: Path):
    report = await run(tmp_path, names=["cfg=3", "linear-alignment"], reference="cfg=3")
    [_, row] = report["methods"]
    for interval in row["beyond_reference"].values():
        assert (interval["mean"], interval["low"], interval["high"]) == (0.0, 0.0, 0.0)


async def test_an_exact_checker_s_verdicts_are_more_scores(tmp_path: Path):
    def verdict(id: str, text: str) -> dict[str, float]:
        return {"even": float(int(id) % 2 == 0)}

    report = await run(tmp_path, names=["base", "prompted", "icl=2"], verdict=verdict)
    assert report["metrics"] == ["rouge1", "rouge2", "rougeL", "even"]
    assert all(row["scores"]["even"]["mean"] == 0.5 for row in report["methods"])


async def test_it_goes_on_where_it_was_interrupted(tmp_path: Path):
    whole = await run(tmp_path)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    engine = ToyEngine()
    assert await run(tmp_path, engine, resume=True) == whole
    assert engine.counts["sampled"] > 0
    idle = ToyEngine()
    assert await run(tmp_path, idle, resume=True) == whole
    assert idle.counts == {"sampled": 0, "scored": 0}
    with pytest.raises(BadInput, match="was made otherwise"):
        await run(tmp_path, names=["base"], resume=True)


async def test_nothing_is_generated_if_older_records_stand_in_the_way(tmp_path: Path):
    await run(tmp_path)
    (tmp_path / "records.jsonl").unlink()
    engine = ToyEngine()
    with pytest.raises(BadInput, match="--resume goes on with it"):
        await run(tmp_path, engine)
    assert engine.counts["sampled"] == 0


async def test_a_reference_that_is_no_method_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="is none of the methods"):
        await run(tmp_path, reference="tea")


async def test_the_written_report(tmp_path: Path):
    report = await run(tmp_path)
    text = write_report(report, tmp_path, "preftilt behaviour …")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "behaviour.png").read_bytes().startswith(b"\x89PNG")
    own = report["methods"][0]["scores"]["rougeL"]
    assert f"{100 * own['mean']:.1f} [" in text
    assert "## Discrimination beside generation" in text
    assert "Porter stemmer" in text


@pytest.fixture
def cli(real_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(configure, "open_engine", lambda *_: ToyEngine())
    return real_cli


ROW = {
    "user": "ann",
    "question": "How do I study maths?",
    "completion": "read maths",
    "examples": [{"question": "And games?", "response": "play"}],
}


def test_the_command_measures_writes_and_prints(cli: Cli, rows, tmp_path: Path):
    out = tmp_path / "out"
    source = rows(ROW, ROW | {"completion": "draw"}, ROW | {"user": "bob"})
    said = cli("behaviour", source, "-o", out, "--max-tokens", 6, "-n", 2)
    assert said.code == 0
    assert said.out.startswith("# Behaviour against the user's own words")
    report = json.loads((out / "report.json").read_text())
    assert [one["method"] for one in report["methods"]] == [
        "base",
        "icl=4",
        "rear-icl=3",
        "cfg-icl=3",
    ]
    assert report["drawing"]["n"] == 2


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--method", "rear=3"], "no preference is stated"),
        (["--method", "args=2"], "does not write any here"),
        (["--method", "tea"], "there is no rule 'tea'"),
        (["--n", "0"], "--n"),
        (["--temperature", "-1"], "--temperature"),
        (["--reduction", "max"], "--reduction"),
        (["--reward-model", "a:b"], "no method here asks another model"),
        (["--outputs", "x"], "belongs to --format lamp"),
        (["--reference", "tea"], "none of the methods"),
    ],
    ids=lambda one: one[-1] if isinstance(one, list) else "",
)
def test_what_cannot_be_done_is_refused(cli: Cli, rows, tmp_path: Path, flags, told):
    said = cli("behaviour", rows(ROW), "-o", tmp_path / "out", *flags)
    assert (said.code, told in said.err) == (2, True), said.err
    assert not (tmp_path / "out" / "records.jsonl").exists()
