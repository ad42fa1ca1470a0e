"""PrefEval's files: histories, options, inserted turns, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval_data import FILLER_FILE, FORMS, Form, load_filler, load_items
from tests.eval_inspect.fixtures import SMALL, write, write_prefeval


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_prefeval(tmp_path)


def test_an_items_history_is_that_of_its_form(data: Path) -> None:
    histories = {form: load_items(str(data), form)[0].history for form in FORMS}
    assert histories["explicit"] == ()
    assert [one.role for one in histories["choice"]] == ["user", "assistant"] * 2
    assert histories["choice"][2].content.startswith("I take option 1")
    assert [one.content for one in histories["persona"][2:4]] == [
        "I keep away from the thing.",
        "All right.",
    ]


def test_an_items_name_is_its_topic_and_row(data: Path) -> None:
    items = load_items(str(data.parent), "explicit")
    assert items[0].id == "education_learning_styles/0"
    assert items[-1].id == "shop_technology/34"
    assert len(items) == 31 + 35
    only = load_items(str(data), "explicit", topics=["shop_technology"])
    assert [one.id for one in only] == [one.id for one in items[31:]]


def test_options_are_joined_by_row(data: Path) -> None:
    items = load_items(str(data), "persona", options=True)
    assert items[0].options == ("Fits.", "Thing 1.", "Thing 2.", "Thing 3.")
    assert load_items(str(data), "persona")[0].options == ()


def test_inserted_turns_are_one_list_in_file_order(data: Path) -> None:
    filler = load_filler(str(data))
    assert [one.content for one in filler] == [f"Filler {i}." for i in range(8)]
    assert [one.role for one in filler[:2]] == ["user", "assistant"]


def test_inserted_turns_out_of_turn_are_refused(data: Path) -> None:
    rows = json.loads((data / FILLER_FILE).read_text("utf-8"))
    rows[1]["conversation"][0]["role"] = "assistant"
    write(data / FILLER_FILE, rows)
    with pytest.raises(BadInput, match=r"row 1: .*conversation\[0\]\.role.*where it is the user's"):
        load_filler(str(data))


def test_a_cut_off_file_is_refused_with_its_count(data: Path) -> None:
    path = data / "explicit_preference" / f"{SMALL[0]}.json"
    write(path, json.loads(path.read_text("utf-8"))[:30])
    with pytest.raises(BadInput, match=r"education_learning_styles\.json has 30 rows, not 31"):
        load_items(str(data), "explicit")


@pytest.mark.parametrize(
    ("form", "file", "field"),
    [
        ("explicit", "explicit_preference", "preference"),
        ("choice", "implicit_preference/choice-based", "conversation"),
        ("persona", "implicit_preference/persona-driven", "question"),
        ("explicit", "mcq_options", "classification_task_options"),
    ],
)
def test_a_missing_field_is_named_with_file_and_row(
    data: Path, form: Form, file: str, field: str
) -> None:
    path = data / file / f"{SMALL[1]}.json"
    rows = json.loads(path.read_text("utf-8"))
    del rows[12][field]
    write(path, rows)
    with pytest.raises(BadInput, match=rf'{SMALL[1]}\.json, row 12: field "{field}" is missing'):
        load_items(str(data), form, options=True)


def test_options_of_another_question_are_refused(data: Path) -> None:
    path = data / "mcq_options" / f"{SMALL[0]}.json"
    rows = json.loads(path.read_text("utf-8"))
    rows[3]["question"] = "Another?"
    write(path, rows)
    with pytest.raises(
        BadInput, match=r'row 3: field "question" differs from that of the same row'
    ):
        load_items(str(data), "choice", options=True)


def test_an_unknown_topic_and_an_empty_folder_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no topic 'cooking'; it has education_learning_styles"):
        load_items(str(data), "explicit", topics=["cooking"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="has no topic of PrefEval"):
        load_items(str(tmp_path / "empty"), "explicit")


def test_a_data_set_of_the_hub_has_the_same_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "set" / "train.json", [{"preference": "No.", "question": "What?"}])
    [item] = load_items(f"hub:{tmp_path / 'set'}", "explicit")
    assert (item.id, item.preference) == ("all/0", "No.")
