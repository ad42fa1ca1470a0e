"""Data files: what is wrong with one is said with file, row and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftilt.errors import BadInput, UnknownModel
from preftilt.eval.harness.rows import (
    DataRow,
    check_count,
    data_folder,
    hub_rows,
    json_rows,
    jsonl_rows,
)


def row(**fields: object) -> DataRow:
    return DataRow("topic.json", 7, fields)


def test_a_field_is_read_by_its_type() -> None:
    one = row(a="text", b=["x", "y"], c={"d": "deep"}, e=[{"f": "deeper"}])
    assert one.text("a") == "text"
    assert one.texts("b", 2) == ("x", "y")
    assert one.object("c").text("d") == "deep"
    assert [nested.text("f") for nested in one.objects("e")] == ["deeper"]
    assert one.optional_text("absent") is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, r'field "a" is missing; there are no fields'),
        ({"b": 1}, r'field "a" is missing; there are b'),
        ({"a": 3}, r'field "a" must be a text, not int'),
        ({"a": " "}, r'field "a" is empty'),
    ],
)
def test_a_text_that_is_not_there_is_named_with_file_and_row(
    fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(BadInput, match=rf"topic\.json, row 7: {problem}"):
        row(**fields).text("a")


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(BadInput, match='row 7: field "options" has 3 entries, not 4'):
        row(options=["a", "b", "c"]).texts("options", 4)


def test_a_list_with_something_else_than_texts_is_refused() -> None:
    with pytest.raises(BadInput, match='field "options" must be a list of texts'):
        row(options=["a", 2]).texts("options")


def test_a_nested_field_is_named_with_its_path() -> None:
    nested = row(conversation={"0": {"user": "Hello."}}).object("conversation")
    with pytest.raises(BadInput, match=r'field "conversation\.0\.assistant" is missing'):
        nested.object("0").text("assistant")
    listed = row(turns=[{"role": "user"}]).objects("turns")
    with pytest.raises(BadInput, match=r'field "turns\[0\]\.content" is missing'):
        listed[0].text("content")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ('{"a": 1}', "must hold a list of objects, not dict"),
        ('[{"a": 1}, 2]', "row 1: must be an object, not int"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, "utf-8")
    with pytest.raises(BadInput, match=rf"rows\.json.*{problem}"):
        json_rows(path)


def test_lines_are_rows_and_blank_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x"}\n\n{"a": "y"}\n', "utf-8")
    assert [one.text("a") for one in jsonl_rows(path)] == ["x", "y"]
    path.write_text('{"a": "x"}\n{"a": ', "utf-8")
    with pytest.raises(BadInput, match=r"rows\.jsonl, row 1: not JSON"):
        jsonl_rows(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*gone\.json.*the benchmark needs it"):
        json_rows(tmp_path / "gone.json")


def test_a_file_of_another_length_is_refused() -> None:
    with pytest.raises(BadInput, match=r"a\.json has 1 rows, not 31"):
        check_count([row()], "a.json", 31)


def test_the_benchmarks_folder_or_the_one_above_is_given(tmp_path: Path) -> None:
    inner = tmp_path / "prefeval"
    inner.mkdir()
    assert data_folder(str(tmp_path), "prefeval") == inner
    assert data_folder(str(inner), "prefeval") == inner
    with pytest.raises(BadInput, match="there is no folder"):
        data_folder(str(tmp_path / "gone"), "prefeval")


def test_a_data_set_is_read_by_the_hubs_own_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps({"question": "Why?"}) + "\n", "utf-8")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    [one] = hub_rows(str(folder), "train")
    assert one.text("question") == "Why?"
    with pytest.raises(UnknownModel, match=r"no-such-folder .*cannot be loaded"):
        hub_rows(str(tmp_path / "no-such-folder"), "train")
