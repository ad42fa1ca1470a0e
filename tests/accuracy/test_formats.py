"""Pairs from every format, and what is said of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.demo.world import judge, preference, topic
from preftilt.errors import BadInput
from preftilt.eval.accuracy.formats import FORMS, ComparisonSource, read_comparisons
from preftilt.eval.accuracy.world import PAST, QUESTIONS, world_comparisons, world_users
from preftilt.eval.benchmarks.prefeval_data import TOPICS
from preftilt.types import Preference

GOOD = {"question": "tea?", "preference": "no sugar", "chosen": "plain", "rejected": "sweet"}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def asked(path: Path, **more: Any) -> ComparisonSource:
    return ComparisonSource(location=str(path), **more)


def test_pairs_are_read_with_all_they_may_have(tmp_path: Path):
    whole = {
        "id": "x",
        "user": "ann",
        "group": "drinks",
        "messages": [{"role": "user", "content": "tea?"}],
        "preferences": ["no sugar", {"text": "hot", "strength": 2}],
        "chosen": "plain",
        "rejected": ["sweet", "cold"],
        "examples": [{"question": "coffee?", "response": "black"}],
    }
    first, second = read_comparisons(
        "pairs", asked(lines(tmp_path / "p.jsonl", GOOD, whole))
    ).comparisons
    assert (first.id, first.user, first.group, first.rejected) == ("1", "1", "all", ("sweet",))
    assert (second.id, second.user, second.group) == ("x", "ann", "drinks")
    assert second.preferences == (Preference("no sugar"), Preference("hot", 2))
    assert second.responses == ("plain", "sweet", "cold")
    assert second.examples[0].response == "black"


def test_a_preference_of_all_rows_stands_in_where_there_is_none(tmp_path: Path):
    row = {name: value for name, value in GOOD.items() if name != "preference"}
    path = lines(tmp_path / "p.jsonl", row)
    [found] = read_comparisons(
        "pairs", asked(path, preferences=(Preference("be kind"),))
    ).comparisons
    assert found.preferences == (Preference("be kind"),)
    with pytest.raises(BadInput, match="leave one out"):
        read_comparisons(
            "pairs", asked(lines(tmp_path / "q.jsonl", GOOD), preferences=(Preference("x"),))
        )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"chosen": ""}, 'line 1: "chosen" must not be empty'),
        ({"rejected": []}, '"rejected"'),
        ({"rejected": 3}, '"rejected"'),
        ({"rejected": ["plain"]}, "no better side"),
        ({"chosen": "sweet"}, "no better side"),
        ({"better": 1}, 'unknown field "better"'),
        ({"messages": [{"role": "user", "content": "x"}]}, 'one of "question" and "messages"'),
        ({"question": None}, 'one of "question" and "messages"'),
        ({"examples": [{"question": "x"}]}, "examples.0.response"),
    ],
    ids=str,
)
def test_a_bad_pair_is_refused_with_line_and_field(tmp_path: Path, changed: dict, told: str):
    path = lines(tmp_path / "p.jsonl", GOOD | changed)
    with pytest.raises(BadInput, match=str(path)) as failure:
        read_comparisons("pairs", asked(path))
    assert told in str(failure.value)


def test_a_file_without_pairs_or_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="no rows"):
        read_comparisons("pairs", asked(lines(tmp_path / "p.jsonl")))
    with pytest.raises(BadInput, match="cannot read"):
        read_comparisons("pairs", asked(tmp_path / "none.jsonl"))
    with pytest.raises(BadInput, match="no format 'tea'"):
        read_comparisons("tea", asked(tmp_path))
    with pytest.raises(BadInput, match="belong to the format prefeval"):
        read_comparisons("pairs", asked(tmp_path, topics=("x",)))


def test_rewardbench_rows(tmp_path: Path):
    rows = [
        {"id": 7, "prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "math"},
        {"prompt": [{"role": "user", "content": "hi"}], "chosen": ["a"], "rejected": ["b", "c"]},
    ]
    for name, text in (
        ("r.jsonl", "".join(json.dumps(one) + "\n" for one in rows)),
        ("r.json", json.dumps(rows)),
    ):
        (tmp_path / name).write_text(text)
        first, second = read_comparisons("rewardbench", asked(tmp_path / name)).comparisons
        assert (first.id, first.group, first.rejected) == ("0/7", "math", ("5",))
        assert second.rejected == ("b", "c")
    bad = lines(tmp_path / "bad.jsonl", rows[0] | {"chosen": ["a", "b"]})
    with pytest.raises(BadInput, match=r'bad\.jsonl, row 0: field "chosen" has 2'):
        read_comparisons("rewardbench", asked(bad))


def test_hh_rlhf_in_both_spellings(tmp_path: Path):
    def said(last: str) -> str:
        return f"\n\nHuman: hi\n\nAssistant: hel\0lo\n\nHuman: tea?\n\nAssistant: {last}"

    turns = [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "plain"}]
    other = [turns[0], {"role": "assistant", "content": "sweet"}]
    elsewhere = [{"role": "user", "content": "milk?"}, turns[1]]
    path = lines(
        tmp_path / "hh.jsonl",
        {"chosen": said("plain"), "rejected": said("sweet")},
        {"chosen": turns, "rejected": other},
        {"chosen": turns, "rejected": elsewhere},
        {"chosen": turns, "rejected": turns},
    )
    found = read_comparisons("hh-rlhf", asked(path, preferences=(Preference("be harmless"),)))
    first, second = found.comparisons
    assert [one.content for one in first.messages] == ["hi", "hel\0lo", "tea?"]
    assert (first.chosen, first.rejected, second.chosen) == ("plain", ("sweet",), "plain")
    assert list(found.left_out.values()) == [2]
    bad = lines(tmp_path / "bad.jsonl", {"chosen": turns[:1], "rejected": other})
    with pytest.raises(BadInput, match='row 0: field "chosen" must be a conversation'):
        read_comparisons("hh-rlhf", asked(bad))


def test_prefeval_s_options_are_three_pairs_a_row(tmp_path: Path):
    """Rows of ours in PrefEval's layout: its own text is not in this repository."""
    topic_name, count = "education_learning_styles", TOPICS["education_learning_styles"]
    for folder, more in (
        ("explicit_preference", {}),
        ("mcq_options", {"classification_task_options": ["fits", "a", "b", "c"]}),
    ):
        (tmp_path / folder).mkdir()
        rows = [
            {"preference": f"p{i}", "question": f"q{i}", "explanation": "e"} | more
            for i in range(count)
        ]
        (tmp_path / folder / f"{topic_name}.json").write_text(json.dumps(rows))
    found = read_comparisons("prefeval", asked(tmp_path)).comparisons
    assert len(found) == count
    assert (found[2].chosen, found[2].rejected) == ("fits", ("a", "b", "c"))
    assert (found[2].group, found[2].preferences) == (topic_name, (Preference("p2"),))
    assert len(read_comparisons("prefeval", asked(tmp_path, limit=3)).comparisons) == 3
    with pytest.raises(BadInput, match="states its own preferences"):
        read_comparisons("prefeval", asked(tmp_path, preferences=(Preference("x"),)))


def test_the_world_s_pairs_are_told_apart_by_its_checker():
    for user in world_users():
        assert len(user.past) == PAST
        assert len(user.to_come) == QUESTIONS
        for one in user.to_come:
            about = topic(one.question.topic)
            verdicts = [
                judge(about, one.question.subject, user.taste, text)
                for text in (one.completion, one.violating)
            ]
            assert [verdict.helpful for verdict in verdicts] == [True, True]
            assert [verdict.violates for verdict in verdicts] == [False, True]


def test_the_world_s_users_are_always_the_same_and_their_past_is_no_test():
    world_users.cache_clear()
    first = world_users()
    world_users.cache_clear()
    assert world_users() == first
    for user in first:
        asked_before = {one.question for one in user.past}
        assert not asked_before & {one.question.text for one in user.to_come}
        assert preference(user.id) is user.taste
    groups = {one.group for one in world_comparisons()}
    assert groups == {"seen", "held-out"}


@pytest.mark.parametrize("changed", [{"preferences": (Preference("x"),)}, {"location": "other"}])
def test_the_world_takes_nothing_from_outside(changed: dict):
    given: dict[str, Any] = {"location": "demo"} | changed
    with pytest.raises(BadInput):
        read_comparisons("world", ComparisonSource(**given))


def test_pairs_for_training_are_compared_objective_by_objective(tmp_path: Path):
    row = {
        "prompt": "tea?",
        "responses": ["plain", "sweet and hot"],
        "preferred": {"helpful": 1, "brief": 0},
    }
    path = lines(tmp_path / "t.jsonl", row, {"prompt": "x?", "chosen": "a", "rejected": "b"})
    found = read_comparisons("train", asked(path)).comparisons
    told = [(one.id, one.user, one.group, one.chosen, one.rejected) for one in found]
    assert told == [
        ("1/helpful", "1", "helpful", "sweet and hot", ("plain",)),
        ("1/brief", "1", "brief", "plain", ("sweet and hot",)),
        ("2/preference", "2", "preference", "a", ("b",)),
    ]


def test_a_training_pair_that_says_nothing_is_refused_with_its_row(tmp_path: Path):
    path = lines(tmp_path / "t.jsonl", {"prompt": "x?", "chosen": "a", "rejected": "a"})
    with pytest.raises(BadInput, match="row 1: chosen and rejected are the same"):
        read_comparisons("train", asked(path))


def test_every_format_has_a_test_here():
    assert {"pairs", "rewardbench", "hh-rlhf", "prefeval", "train", "world"} == set(FORMS)
