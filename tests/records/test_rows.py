"""Rows as the library's own values: what changes a fingerprint, and what settings they give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from preftilt.api import Settings
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.records.patch import SettingsPatch
from preftilt.records.rows import CheckedRow, ScoreRow, read_items
from preftilt.search import DVTS, BestOfN, Greedy
from preftilt.types import Preference

BASE = Settings(lam=5, search=DVTS(width=2))


def item(**row: Any) -> CheckedRow:
    text = json.dumps({"question": "Q?", "preference": "x"} | row)
    [only] = read_items([text.encode()], source="test", base=BASE)
    return only


def test_a_row_without_settings_has_the_base() -> None:
    assert item().settings == BASE
    assert item().messages == (Message("user", "Q?"),)
    assert item().preferences == (Preference("x"),)
    assert item().id == "1"


def test_a_search_without_a_name_changes_the_base_and_another_name_starts_anew() -> None:
    assert item(settings={"search": {"subtrees": 7}}).settings.search == DVTS(width=2, subtrees=7)
    assert item(settings={"search": {"name": "best-of-n"}}).settings.search == BestOfN()
    assert item(settings={"search": {"name": "greedy"}}).settings.search == Greedy()


def test_a_setting_that_the_bases_search_ignores_is_refused_and_null_is_not() -> None:
    greedy = Settings(search=Greedy())
    for given, refused in (({"top_k": 3}, True), ({"top_k": None, "max_tokens": 3}, False)):
        line = json.dumps({"question": "Q?", "preference": "x", "settings": given}).encode()
        if refused:
            with pytest.raises(BadInput, match="top_k does not apply to the search 'greedy'"):
                read_items([line], source="test", base=greedy)
        else:
            assert read_items([line], source="test", base=greedy)[0].settings.max_tokens == 3


def test_null_changes_nothing() -> None:
    assert item(settings={"lambda": None, "search": None, "system": None}).settings == BASE
    assert item(id=None, messages=None, preferences=None).id == "1"


def test_ids_may_be_numbers() -> None:
    assert item(id=12).id == "12"


def test_earlier_turns_as_the_preference_need_no_other() -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    row = {"messages": turns, "settings": {"history": "preference"}}
    [only] = read_items([json.dumps(row).encode()], source="test", base=BASE)
    assert only.preferences == ()


CHANGES: list[dict[str, Any]] = [
    {"question": "Another?"},
    {"preference": "y"},
    {"preference": {"text": "x", "strength": 5}},
    {"settings": {"lambda": 4}},
    {"settings": {"seed": 1}},
    {"settings": {"search": {"width": 3}}},
    {"settings": {"system": "x"}},
    {"settings": {"max_tokens": 9}},
]


def test_a_fingerprint_changes_with_all_that_shapes_the_record() -> None:
    marks = {item(**change).fingerprint({"model": "a"}) for change in ({}, *CHANGES)}
    marks.add(item().fingerprint({"model": "b"}))
    assert len(marks) == len(CHANGES) + 2


def test_a_fingerprint_does_not_change_with_id_or_line() -> None:
    lines = [b"", json.dumps({"id": "z", "question": "Q?", "preference": "x"}).encode()]
    [other] = read_items(lines, source="test", base=BASE)
    assert other.fingerprint({}) == item().fingerprint({})


def test_responses_are_part_of_a_fingerprint() -> None:
    marks = set()
    for responses in (["a"], ["a", "b"], ["b", "a"]):
        row = {"question": "Q?", "preference": "x", "responses": responses}
        [only] = read_items([json.dumps(row).encode()], source="t", base=BASE, model=ScoreRow)
        marks.add(only.fingerprint({}))
    assert len(marks) == 3


def test_lambda_has_one_name() -> None:
    assert SettingsPatch.model_validate({"lambda": 3.0}).apply(Settings()).lam == 3.0
    with pytest.raises(BadInput, match=r'unknown field "settings\.lam"; did you mean "lambda"'):
        item(settings={"lam": 3.0})
