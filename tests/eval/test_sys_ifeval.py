"""S-IFEval: rows are read and refused by file, row and field, splits are apart, and IFEval's programs judge."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput, MissingPackage
from preftilt.eval.benchmarks import sys_ifeval as checking
from preftilt.eval.benchmarks.sys_ifeval import (
    check_answer,
    load_items,
    load_single,
    open_sys_ifeval,
)
from preftilt.eval.harness.benchmark import Opening
from tests.eval.ifeval_files import rows, system_row, write_ifeval


def test_the_system_message_is_the_preference_and_the_users_words_are_the_question(tmp_path: Path):
    item = load_items(write_ifeval(tmp_path))[0]
    assert (item.preference, item.question) == ("No commas.", "What about 0?")
    assert item.constraints == ("punctuation:no_comma",)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"messages": None}, 'field "messages" must be a list of objects'),
        (
            {"messages": [{"role": "user", "content": "?"}]},
            'field "messages" must be a system and a user message, not user',
        ),
        (
            {"instruction_id_list": ["made:up"]},
            "has the constraint 'made:up', which if-verifiable does not know",
        ),
        ({"kwargs": []}, 'field "kwargs" has 0 entries for 1 constraints'),
        (
            {"kwargs": [{"num_words": 3}]},
            "gives 'punctuation:no_comma' arguments that its checker refuses",
        ),
    ],
)
def test_a_wrong_row_is_named_by_file_row_and_field(
    tmp_path: Path, change: dict[str, Any], problem: str
):
    system = rows(2)
    system[1] |= change
    with pytest.raises(BadInput, match=rf"sys_ifeval\.jsonl, row 1: .*{problem}"):
        load_items(write_ifeval(tmp_path, system))


def test_rows_that_need_a_long_answer_are_told(tmp_path: Path):
    items = load_items(write_ifeval(tmp_path))
    assert [item.can_be_short for item in items] == [True] * 12 + [False]


def test_what_is_reported_and_what_is_chosen_on_have_no_row_and_no_words_in_common(tmp_path: Path):
    own = open_sys_ifeval(Opening(data=write_ifeval(tmp_path, rows(40)), validation=100))
    test, validation = own.test(0), own.validation()
    assert len(test) > 20
    assert len(validation) > 12
    assert {case.id for case in test}.isdisjoint(case.id for case in validation)
    questions = [{case.request.messages[0].content for case in part} for part in (test, validation)]
    assert questions[0].isdisjoint(questions[1])


def test_the_rows_of_validation_can_be_reported_alone_to_choose_other_settings_on(tmp_path: Path):
    data = write_ifeval(tmp_path, rows(40))
    usual = open_sys_ifeval(Opening(data=data, validation=100))
    chosen_on = open_sys_ifeval(Opening(data=data, switches={"rows": "validation"}))
    assert [case.id for case in chosen_on.test(0)] == [case.id for case in usual.validation()]
    assert chosen_on.validation() == []


def test_the_split_of_a_row_is_the_same_in_any_file(tmp_path: Path):
    def splits(system: list[dict[str, Any]], folder: str) -> dict[str, str]:
        (tmp_path / folder).mkdir()
        data = write_ifeval(tmp_path / folder, system)
        return {item.id: item.split for item in load_items(data)}

    whole, part = splits(rows(30), "whole"), splits(rows(30)[7:19], "part")
    assert part == {name: whole[name] for name in part}
    assert set(whole.values()) == {"test", "validation"}


def test_words_to_leave_out_and_words_to_bring_in_come_in_turns(tmp_path: Path):
    single = load_single(write_ifeval(tmp_path))
    assert [item.id.partition("-")[0] for item in single] == ["exclusion", "inclusion"] * 4
    assert single[0].opposite == "Use the words 'sea'."
    assert single[1].opposite is None


TITLE_AND_NO_COMMA = ("detectable_format:title", "punctuation:no_comma")


@pytest.mark.parametrize(
    ("answer", "strict", "loose", "share"),
    [
        ("<<Sea>>\nIt is wide.", 1, 1, 1),
        ("Sure, here it is:\n<<Sea>>\nIt is wide.", 0, 1, 0.5),
        ("It is wide, and blue.", 0, 0, 0),
        (" \n", 0, 0, 0),
    ],
)
def test_an_answer_is_judged_strictly_loosely_and_by_its_share(
    answer: str, strict: float, loose: float, share: float
):
    found = check_answer(TITLE_AND_NO_COMMA, ({}, {}), "?", answer)
    assert [found[name] for name in checking.METRICS] == [strict, loose, share]


def test_a_constraint_that_stands_twice_counts_by_its_mean():
    twice = ("keywords:existence", "keywords:existence")
    arguments = ({"keywords": ["sea"]}, {"keywords": ["hill"]})
    found = check_answer(twice, arguments, "?", "The sea.")
    assert found[checking.constraint_metric("keywords:existence")] == 0.5


def test_sentences_are_counted_by_the_model_that_comes_by_pip():
    fewer = ({"relation": "less than", "num_sentences": 3},)
    text = "Dr. Smith lives in the U.S. now. He likes it."
    found = check_answer(("length_constraints:number_sentences",), fewer, "?", text)
    assert found[checking.FOLLOWING] == 1


def test_languages_are_told_alike_every_time():
    wanted = ("language:response_language",)
    results = [
        check_answer(wanted, ({"language": "de"},), "?", "Gut und alt.")[checking.FOLLOWING]
        for _ in range(20)
    ]
    assert len(set(results)) == 1


def test_missing_checkers_are_named_with_their_remedy(monkeypatch: pytest.MonkeyPatch):
    def without(package: str) -> object:
        return None if package == "if_verifiable" else find_spec(package)

    monkeypatch.setattr(checking, "find_spec", without)
    checking._registry.cache_clear()
    with pytest.raises(MissingPackage, match=r"if_verifiable: pip install"):
        check_answer(("punctuation:no_comma",), ({},), "?", "Yes.")
    checking._registry.cache_clear()


def test_a_constraint_with_a_word_to_leave_out_has_an_opposite_only_by_itself(tmp_path: Path):
    forbidden = ("keywords:forbidden_words", {"forbidden_words": ["sea", "sky"]})
    alone = system_row(1, "No sea.", "?", forbidden)
    beside = system_row(2, "No sea.", "?", forbidden, ("punctuation:no_comma", {}))
    items = load_items(write_ifeval(tmp_path, [alone, beside]))
    assert [item.opposite for item in items] == ["Use the words 'sea', 'sky'.", None]
