"""Multifaceted Bench: its three forms of data, grades, rows' numbers, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks import multifaceted as source
from preftilt.eval.benchmarks.multifaceted import (
    MultifacetedItem,
    judged_instruction,
    load_items,
    method_protocol,
    rate,
    read_grade,
    request_for,
    rules_for,
)


def rubric(number: int) -> dict[str, Any]:
    return {
        "criteria": f"Does it heed wish {number}?",
        "score_descriptions": {str(grade): f"To degree {grade}." for grade in range(1, 6)},
    }


def row(number: int) -> dict[str, Any]:
    return {
        "source": "ours",
        "system": f"You like wish {number}.",
        "prompt": f"Question {number}?",
        "reference_answer": "The best answer.",
        "rubrics": [rubric(i) for i in range(4)],
    }


def old_row(number: int) -> dict[str, Any]:
    new = row(number)
    return {
        "system_prompt": new["system"],
        "user_prompt": new["prompt"],
        "original_source": "ours",
        "reference_answer": new["reference_answer"],
        "rubric": new["rubrics"],
    }


def lines(folder: Path, rows: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    text = "\n".join(map(json.dumps, rows))
    (folder / "readme_examples.jsonl").write_text(text, "utf-8")
    return str(folder)


def test_the_three_published_forms_give_the_same_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ROWS", 2)
    between = [{k: v for k, v in row(i).items() if k != "rubrics"} for i in range(2)]
    for i, one in enumerate(between):
        one["rubric"] = row(i)["rubrics"]
    forms: dict[str, Any] = {
        "new": [row(0), row(1)],
        "between": between,
        "oldest": {"0": old_row(0), "1": old_row(1)},
    }
    found = []
    for name, content in forms.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.json").write_text(json.dumps(content), "utf-8")
        found.append(load_items(str(tmp_path / name)))
    assert found[0] == found[1] == found[2]
    first = found[0][0]
    assert (first.id, first.system, len(first.rubrics)) == ("0", "You like wish 0.", 4)
    assert json.loads(first.rubrics[3].to_text()) == rubric(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, r'readme_examples\.jsonl, row 1: field "prompt" must be a text'),
        ({"reference_answer": " "}, r'row 1: field "reference_answer" is empty'),
        ({"rubrics": [rubric(0)]}, r'row 1: field "rubrics" has 1 entries, not 4'),
        (
            {"rubrics": [rubric(0)] * 3 + [{"criteria": "?", "score_descriptions": {"1": "a"}}]},
            r'row 1: field "rubrics\[3\]\.score_descriptions\.2" is missing',
        ),
    ],
)
def test_a_wrong_row_is_named_by_file_row_and_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        load_items(lines(tmp_path / "data", [row(0), row(1) | change]))


def test_a_cut_off_file_is_refused_with_its_count(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"readme_examples\.jsonl has 3 rows, not 2"):
        load_items(lines(tmp_path / "data", [row(i) for i in range(3)]))
    (tmp_path / "data" / "readme_examples.jsonl").rename(tmp_path / "data" / "whole.jsonl")
    with pytest.raises(BadInput, match=r"whole\.jsonl has 3 rows, not 921"):
        load_items(str(tmp_path / "data"))


def test_a_folder_must_hold_one_data_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no data file"):
        load_items(str(tmp_path))
    for name in ("a.json", "b.jsonl"):
        (tmp_path / name).write_text("[]", "utf-8")
    with pytest.raises(BadInput, match=r"several \(a\.json, b\.jsonl\)"):
        load_items(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Feedback: fine. [RESULT] 4", 4),
        ("Feedback: its score 2 is low. [RESULT] 5", 5),
        ("[RESULT] (3)", 3),
        ("[RESULT] 3/5", 3),
        ("[RESULT] 2 … no: [RESULT] 1", 1),
        ("[RESULT] 7", None),
        ("[RESULT] 3.5", None),
        ("[RESULT] 45", None),
        ("Score: 4", None),
        ("", None),
    ],
)
def test_the_grade_is_the_number_behind_result(text: str, grade: int | None) -> None:
    assert read_grade(text) == grade


def test_a_rows_score_is_its_mean_grade_over_five() -> None:
    assert rate([5, 4, 4, 3], "skip-grade") == {"score": 0.8, "rating": 4.0}


def test_a_missing_grade_is_left_out_or_takes_the_row_out() -> None:
    assert rate([5, None, 3], "skip-grade")["rating"] == 4.0
    assert rate([5, None, 3], "skip-row") == {"score": None, "rating": None}
    assert rate([None, None], "skip-grade") == {"score": None, "rating": None}


def test_the_system_message_is_the_preference() -> None:
    item = MultifacetedItem(
        id="0", source="", system="Be kind.", prompt="Hm?", reference="Yes.", rubrics=()
    )
    rules = rules_for("rear-paper", None)
    request = request_for(item, rules)
    assert [one.text for one in request.preferences] == ["Be kind."]
    assert [(one.role, one.content) for one in request.conversation()] == [
        ("system", "Be kind."),
        ("user", "Hm?"),
    ]
    assert judged_instruction(item, rules) == "Be kind.\nHm?"
    assert judged_instruction(item, rules_for("multifaceted", None)) == "Hm?"


def test_presets_differ_where_paper_code_and_benchmark_do() -> None:
    paper, official, own = (
        method_protocol(rules_for(one, None))
        for one in ("rear-paper", "rear-official", "multifaceted")
    )
    assert (paper.settings["reduction"], official.settings["reduction"]) == ("sum", "mean")
    assert paper.searches["dvts"]["delimiter"] == "\n"
    assert official.searches["dvts"]["delimiter"] == "\n\n"
    assert (own.search, own.settings["top_p"], own.settings["max_tokens"]) == ("sample", 0.9, 1024)
    assert rules_for("multifaceted", None).judge_runs == 3


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"judge_run": 2}, "no switch 'judge_run'"),
        ('{"judge_runs": 0}', "judge_runs must be a whole number of at least 1, not 0"),
        ({"judge_runs": "two"}, "judge_runs must be a whole number of at least 1, not 'two'"),
        ({"judge_sees_system": "no"}, "judge_sees_system must be true or false, not 'no'"),
        ({"missing": "zero"}, "missing must be skip-grade or skip-row, not 'zero'"),
    ],
)
def test_a_switch_that_cannot_be_is_refused(switches: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rules_for("rear-paper", switches)
