"""The mathematics tasks: data, checks of answers, and ways of choosing from one pool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.maths import (
    SOURCES,
    Check,
    choose,
    columns,
    curve,
    load_items,
    own_text,
    request_for,
    rules_for,
    same_answer,
)
from preftilt.reward import Reward
from preftilt.rivals.votes import final_answer


def write(folder: Path, file: str, rows: list[dict[str, Any]]) -> str:
    path = folder / "math" / "aime24_amc23_computeoptimaltts" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return str(folder)


def aime(count: int, answer: object) -> list[dict[str, Any]]:
    return [{"problem": f"Find {i}.", "extracted_groundtruth": answer} for i in range(count)]


@pytest.mark.parametrize(("given", "read"), [("025", "25"), (27.0, "27"), (-1.0, "-1"), (7, "7")])
def test_whole_answers_are_read_without_zeros(tmp_path: Path, given: object, read: str) -> None:
    data = write(tmp_path, "aime24.jsonl", aime(30, given))
    items = load_items(data, "aime24")
    assert (items[3].id, items[3].problem, items[3].answer) == ("aime24/3", "Find 3.", read)
    assert load_items(str(tmp_path / "math"), "aime24") == items


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (aime(29, "1"), r"aime24\.jsonl has 29 rows, not 30"),
        ([*aime(29, "1"), {"problem": "?"}], r'row 29: field "final_answer" is missing'),
        ([*aime(29, "1"), {"answer": "1"}], r'row 29: field "problem" is missing'),
        (aime(30, 2.5), r'row 0: field "extracted_groundtruth" is 2\.5, which is no whole'),
        (aime(30, True), r'row 0: field "extracted_groundtruth" must be a text, not bool'),
    ],
)
def test_a_wrong_file_is_named_by_file_row_and_field(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        load_items(write(tmp_path, "aime24.jsonl", rows), "aime24")


def test_the_sets_have_their_sizes() -> None:
    assert {name: one.rows for name, one in SOURCES.items()} == {
        "math500": 500,
        "aime24": 30,
        "amc23": 40,
    }


def test_a_final_answer_is_kept_as_it_was_written() -> None:
    assert final_answer(r"First \boxed{1}, then \boxed{\cot x}.") == r"\cot x"
    assert final_answer("So the answer is 12.") == "12"
    assert final_answer("I do not know.") is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\dfrac12", True),
        ("25", "025", True),
        (r"90^\circ", "90", True),
        (r"\cot x", r"\cot  x", True),
        ("x^2+2x", "2x+x^2", True),
        (r"\text{Evelyn}", r"\text{Evelyn}", True),
        ("25", "26", False),
        (r"\text{Evelyn}", r"\text{Angela}", False),
        ("25", "}{", False),
    ],
)
def test_answers_are_compared_as_mathematics(gold: str, answer: str, same: bool) -> None:
    assert same_answer(gold, answer) is same


def solution(
    slot: int, answer: str | None, score: float, *, length: int = 10, finish: str = "eos"
) -> dict[str, Any]:
    return {
        "slot": slot,
        "text": "no idea" if answer is None else rf"So \boxed{{ {answer} }}.",
        "finish": finish,
        "sums": {"question_logprob": score, "preference_gain": 0.0, "length": length},
    }


def chosen(
    pool: Sequence[dict[str, Any]],
    curve_of: Sequence[int] = (),
    check: Check | None = None,
    lam: float = 20.0,
    reward: Reward = Reward(),  # noqa: B008
) -> dict[str, float | None]:
    record = {"settings": {"lambda": lam, **asdict(reward)}, "candidates": pool}
    return choose(record, curve_of, check or is_seven)


def is_seven(answer: str) -> bool:
    return answer.strip() == "7"


def test_each_way_of_choosing_has_its_own_winner() -> None:
    pool = [
        solution(0, "5", -9.0),
        solution(1, "5", -9.5),
        solution(2, "7", -1.0),
        solution(3, "3", -0.5, finish="length"),
    ]
    found = chosen(pool, [1, 2])
    assert found == {
        "majority": 0.0,  # 5 has two votes
        "weighted": 0.0,  # 0.95 for 3, 0.9 for 7, 0.1 + 0.05 for 5
        "rear": 1.0,  # the best of those that ended
        "any": 1.0,
        "sample": 0.25,
        "majority_1": 0.0, "weighted_1": 0.0, "rear_1": 0.0, "any_1": 0.0, "sample_1": 0.0,
        "majority_2": 0.0, "weighted_2": 0.0, "rear_2": 0.0, "any_2": 0.0, "sample_2": 0.0,
    }  # fmt: skip


def test_a_vote_weighs_one_plus_the_mean_score() -> None:
    pool = [solution(0, "5", -9.0), solution(1, "5", -9.0), solution(2, "7", -7.0)]
    assert chosen(pool)["majority"] == 0.0
    assert chosen(pool)["weighted"] == 1.0  # 0.3 against 0.2


def test_candidates_without_an_answer_have_no_vote_and_are_wrong() -> None:
    pool = [solution(0, None, -1.0), solution(1, None, -1.0), solution(2, "7", -9.0)]
    found = chosen(pool)
    assert (found["majority"], found["weighted"], found["rear"]) == (1.0, 1.0, 0.0)


def test_a_check_that_took_too_long_makes_no_number() -> None:
    pool = [solution(0, "5", -1.0), solution(1, "7", -2.0)]
    found = chosen(pool, [1], lambda answer: None if "5" in answer else "7" in answer)
    assert (found["rear"], found["sample"], found["any"], found["any_1"]) == (None, None, 1.0, None)


def test_the_pool_is_read_from_a_record_in_the_order_drawn() -> None:
    reward = Reward(reduction="mean", cut_off="as-is")
    pool = [solution(1, "7", -10.0), solution(0, "7", -10.0), solution(2, "5", -5.0)]
    assert chosen(pool, reward=reward)["rear"] == 0.0
    impossible = solution(2, "5", -5.0)
    impossible["sums"] |= {"question_logprob": None, "preference_gain": None}
    assert chosen([*pool[:2], impossible], reward=reward)["rear"] == 1.0
    assert chosen([solution(1, "7", -10.0), solution(0, "5", -10.0)], [1])["rear"] == 0.0
    assert chosen([solution(1, "5", -10.0), solution(0, "7", -10.0)], [1])["rear_1"] == 1.0


def test_a_smaller_pool_is_centred_by_its_own_candidates() -> None:
    def long(slot: int, answer: str, score: float, length: int) -> dict[str, Any]:
        return solution(slot, answer, score, length=length)

    pool = [long(0, "5", -8.0, 8), long(1, "7", -11.0, 12), long(2, "3", -1.0, 8)]
    numbers = chosen(pool, [2], lam=1.0, reward=Reward(reduction="centred"))
    assert (numbers["rear"], numbers["rear_2"]) == (0.0, 1.0)


def test_a_curve_has_the_powers_of_two_below_n() -> None:
    assert [curve(n) for n in (1, 2, 6, 16)] == [[], [1], [1, 2, 4], [1, 2, 4, 8]]
    assert len(columns(curve(16))) == 5 * 5


def test_the_preference_texts_differ_and_the_box_is_asked_for_in_both_views(
    tmp_path: Path,
) -> None:
    item = load_items(write(tmp_path, "aime24.jsonl", aime(30, "1")), "aime24")[0]
    texts = set()
    for name in ("full", "brief", "unrelated"):
        request = request_for(item, rules_for("rear-paper", name, {"box": True}))
        texts.add(request.preferences[0].text)
        assert request.messages[0].content == f"Find 0.\n\n{own_text('maths', 'box.txt')}"
    assert len(texts) == 3
    assert request_for(item, rules_for("rear-paper", "full", None)).messages[0].content == "Find 0."
    with pytest.raises(BadInput, match="preference must be full, brief or unrelated, not 'none'"):
        rules_for("rear-paper", "none", None)
