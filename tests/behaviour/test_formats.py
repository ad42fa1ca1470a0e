"""Users' questions from every format, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import Example
from preftilt.eval.accuracy.formats import QUESTION_FORMS, WRITE, QuestionSource, read_questions
from preftilt.eval.accuracy.world import world_comparisons, world_verdict

GOOD = {"user": "ann", "question": "tea?", "completion": "plain"}


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def test_plain_rows(tmp_path: Path):
    past = [{"question": "coffee?", "response": "black"}]
    whole = GOOD | {"id": "x", "group": "g", "preference": "no sugar", "examples": past}
    path = lines(tmp_path / "u.jsonl", GOOD, whole | {"rejected": "sweet"})
    first, second = read_questions("users", QuestionSource(location=path))
    assert (first.id, first.user, first.chosen, first.rejected) == ("1", "ann", "plain", ())
    assert second.examples == (Example("coffee?", "black"),)
    assert (second.rejected, second.preferences[0].text) == (("sweet",), "no sugar")
    assert len(read_questions("users", QuestionSource(location=path, limit=1))) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"completion": " "}, 'line 1: "completion" must not be empty'),
        ({"user": None}, '"user"'),
        ({"question": None}, 'one of "question" and "messages"'),
        ({"rejected": ["plain"]}, '"completion" stands in "rejected"'),
        ({"answer": "x"}, 'unknown field "answer"'),
    ],
    ids=str,
)
def test_a_bad_row_is_refused_with_line_and_field(tmp_path: Path, changed: dict, told: str):
    with pytest.raises(BadInput) as failure:
        read_questions(
            "users", QuestionSource(location=lines(tmp_path / "u.jsonl", GOOD | changed))
        )
    assert told in str(failure.value)


def lamp(tmp_path: Path, task: str, rows: list[dict], golds: list[dict]) -> QuestionSource:
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "o.json").write_text(json.dumps({"task": task, "golds": golds}))
    return QuestionSource(location=str(tmp_path / "q.json"), outputs=str(tmp_path / "o.json"))


def test_lamp_s_profiles_become_what_was_asked_and_written(tmp_path: Path):
    asked = "Generate a title for the following abstract of a paper: We count."
    rows = [
        {
            "id": "510",
            "input": asked,
            "profile": [{"id": "1", "title": "On sums", "abstract": "We add."}],
        }
    ]
    [found] = read_questions(
        "lamp", lamp(tmp_path, "LaMP_5", rows, [{"id": "510", "output": "On counting"}])
    )
    assert (found.chosen, found.messages[0].content) == ("On counting", asked)
    instruction = "Generate a title for the following abstract of a paper: "
    assert found.examples == (Example(f"{instruction}We add.", "On sums"),)
    tweets = [{"id": 7, "input": "Paraphrase this: x", "profile": [{"id": "1", "text": "hey"}]}]
    [found] = read_questions("lamp", lamp(tmp_path, "LaMP_7", tweets, [{"id": 7, "output": "y"}]))
    assert found.examples == (Example(WRITE, "hey"),)


@pytest.mark.parametrize(
    ("task", "golds", "told"),
    [
        ("LaMP_1", [{"id": "1", "output": "x"}], "\"task\" is 'LaMP_1'; ROUGE is for"),
        ("LaMP_5", [{"id": "2", "output": "x"}], "\"id\" '1' has no gold"),
        ("LaMP_5", [{"id": "1"}], 'field "golds[0].output" is missing'),
        ("LaMP_4", [{"id": "1", "output": "x"}], 'field "profile[0].title" is missing'),
    ],
)
def test_a_bad_lamp_file_is_refused_with_file_row_and_field(tmp_path, task, golds, told):
    rows = [{"id": "1", "input": "a: b", "profile": [{"id": "1", "title": "t", "abstract": "a"}]}]
    with pytest.raises(BadInput) as failure:
        read_questions("lamp", lamp(tmp_path, task, rows, golds))
    assert told in str(failure.value)
    assert "json, row 0" in str(failure.value)


def test_lamp_needs_its_outputs_and_nobody_else_does(tmp_path: Path):
    with pytest.raises(BadInput, match="--outputs"):
        read_questions("lamp", QuestionSource(location="q.json"))
    with pytest.raises(BadInput, match="belongs to --format lamp"):
        read_questions("users", QuestionSource(location="q.json", outputs="o.json"))
    with pytest.raises(BadInput, match="no format 'tea'"):
        read_questions("tea", QuestionSource(location="q.json"))
    with pytest.raises(BadInput, match="has no questions"):
        read_questions("longlamp", QuestionSource(location=lines(tmp_path / "l.jsonl")))


def test_longlamp_s_items_are_told_apart_by_their_fields(tmp_path: Path):
    rows = [
        {"name": "x", "input": "i", "output": "o", "profile": [{"title": "t", "abstract": "a"}]},
        {
            "reviewerId": "r9",
            "input": "i",
            "output": "o",
            "profile": [{"summary": "s", "reviewText": "long", "overall": 5}],
        },
        {"author": "z", "input": "i", "output": "o", "profile": [{"summary": "s", "content": "c"}]},
    ]
    found = read_questions("longlamp", QuestionSource(location=lines(tmp_path / "l.jsonl", *rows)))
    assert [one.user for one in found] == ["x", "r9", "z"]
    assert [one.examples[0] for one in found] == [
        Example("t", "a"),
        Example("s", "long"),
        Example("s", "c"),
    ]
    bad = lines(tmp_path / "b.jsonl", {"input": "i", "output": "o", "profile": [{"tea": "x"}]})
    with pytest.raises(BadInput, match="title/abstract or summary/reviewText"):
        read_questions("longlamp", QuestionSource(location=bad))


def test_the_world_s_users_are_judged_exactly():
    found = read_questions("world", QuestionSource(location="demo"))
    assert found == world_comparisons()
    for one in found[:40]:
        assert world_verdict(one.id, one.chosen) == {"following": 1.0, "helpful": 1.0}
        assert world_verdict(one.id, one.rejected[0]) == {"following": 0.0, "helpful": 1.0}
    with pytest.raises(BadInput):
        read_questions("world", QuestionSource(location="other"))
    assert set(QUESTION_FORMS) == {"users", "lamp", "longlamp", "world"}
