"""Rows become pairs, and every row that is none is named with its file, its number and the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftilt.errors import BadInput
from preftilt.train.pairs import objective_names, read_pairs, split_pairs
from tests.train.conftest import rows, write


def test_chosen_and_rejected_are_a_pair_of_one_objective(tmp_path):
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "objective": "help", "id": 7},
    ]
    plain, named = read_pairs(write(tmp_path / "p.jsonl", rows)).pairs
    assert plain.responses == ("a", "b")
    assert plain.preferred == {"preference": 0}
    assert named.preferred == {"help": 0}


def test_a_pair_can_have_verdicts_of_several_objectives_and_a_whole_conversation(tmp_path):
    row = {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "responses": ["a", "b"],
        "preferred": {"help": 1, "safe": 0},
    }
    [pair] = read_pairs(write(tmp_path / "p.jsonl", [row])).pairs
    assert [message.content for message in pair.messages] == ["s", "q"]
    assert pair.preferred == {"help": 1, "safe": 0}
    assert objective_names([pair]) == ("help", "safe")


def test_what_is_null_is_not_there(tmp_path):
    rows = [
        {"prompt": "q", "messages": None, "chosen": "a", "rejected": "b", "objective": None},
        {"prompt": "q", "responses": ["a", "b"], "preferred": {"help": None, "safe": 1}},
    ]
    plain, several = read_pairs(write(tmp_path / "p.jsonl", rows)).pairs
    assert plain.preferred == {"preference": 0}
    assert several.preferred == {"safe": 1}


def test_rows_of_pku_saferlhf_have_verdicts_of_help_and_harm(tmp_path):
    row = {
        "prompt": "q",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 1,
        "safer_response_id": 0,
    }
    [pair] = read_pairs(write(tmp_path / "p.jsonl", [row])).pairs
    assert pair.preferred == {"helpful": 1, "harmless": 0}


def test_rows_of_hh_rlhf_are_taken_apart_into_turns(tmp_path):
    start = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    row = {"chosen": start + " good\n\nindeed", "rejected": start + " bad"}
    [pair] = read_pairs(write(tmp_path / "p.jsonl", [row])).pairs
    assert [(message.role, message.content) for message in pair.messages] == [
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert pair.responses == ("good\n\nindeed", "bad")


GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (GOOD | {"rejected": " "}, "rejected is empty"),
        ({"prompt": "q", "chosen": "a"}, "rejected is missing"),
        (GOOD | {"rejected": "a"}, "chosen and rejected are the same"),
        (GOOD | {"chosen": 3}, "chosen must be a string"),
        (GOOD | {"colour": 1}, "unknown fields colour"),
        (GOOD | {"messages": []}, "either prompt or messages"),
        (GOOD | {"prompt": " "}, "question is empty"),
        (GOOD | {"chosen": "\ud800"}, "chosen is not valid Unicode"),
        ({"chosen": "a", "rejected": "b"}, "chosen stands without prompt"),
        ({"prompt": "q", "responses": ["a"], "preferred": {"x": 0}}, "a list of two strings"),
        ({"prompt": "q", "responses": ["a", "b"], "preferred": {}}, "at least one objective"),
        ({"prompt": "q", "responses": ["a", "b"], "preferred": {"x": 2}}, "preferred.x is 2"),
        ({"prompt": "q", "responses": ["a", "b"], "preferred": {"x": True}}, "preferred.x is True"),
        (GOOD | {"preferred": {"x": 0}}, "chosen, rejected beside responses"),
        ({"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 2}, "is 2"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
            "differ before the last answer",
        ),
        ([1, 2], "must be a JSON object"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path, row, told):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(row) + "\n", "utf-8")
    with pytest.raises(BadInput, match="row 3: .*" + told) as failure:
        read_pairs(str(path))
    assert str(path) in str(failure.value)


def test_rows_that_do_not_fit_can_be_left_out_and_are_counted(tmp_path):
    path = write(tmp_path / "p.jsonl", [GOOD, {"prompt": "q"}, GOOD | {"rejected": ""}])
    read = read_pairs(path, drop=True)
    assert (len(read.pairs), read.dropped) == (1, 2)


def test_text_that_is_no_json_names_its_row(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{\n", "utf-8")
    with pytest.raises(BadInput, match="row 2: not JSON"):
        read_pairs(str(path))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere"])
def test_a_source_that_is_nowhere_is_refused(name):
    with pytest.raises(BadInput, match="is no file"):
        read_pairs(name)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no pairs"):
        read_pairs(write(tmp_path / "p.jsonl", []))


def test_pairs_of_one_prompt_stay_together_and_adding_rows_moves_none(tmp_path: Path):
    rows = [{**GOOD, "prompt": f"question {n // 2}"} for n in range(200)]
    everything = read_pairs(write(tmp_path / "p.jsonl", rows)).pairs
    train, held = split_pairs(everything, 0.2, seed=0)
    prompts = [{pair.messages[-1].content for pair in part} for part in (train, held)]
    assert not prompts[0] & prompts[1]
    assert 0.1 < len(held) / len(everything) < 0.3
    fewer_train, fewer_held = split_pairs(everything[:50], 0.2, seed=0)
    assert fewer_train == train[: len(fewer_train)]
    assert fewer_held == held[: len(fewer_held)]
    assert split_pairs(everything, 0.2, seed=1) != (train, held)


def test_the_eight_pairs_of_these_tests_can_be_read(pairs):
    assert len(read_pairs(pairs).pairs) == len(rows())
