"""What experiments spend: repeats of an item and the budget of tokens, on the toy engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks import open_benchmarks
from preftilt.eval.harness.benchmark import Benchmark, Opening
from preftilt.eval.report import markdown
from preftilt.eval.reproduce import methods
from preftilt.eval.reproduce.measured import AnswerCost, CostedAnswer
from preftilt.eval.reproduce.numbers import JudgedItems, table
from preftilt.eval.reproduce.report import blocks
from preftilt.eval.reproduce.running import ItemCounts, reproduce
from preftilt.eval.stats import mean_interval
from preftilt.messages import Message
from preftilt.prompt import ChatTokenizer
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from preftilt.types import Tokens
from tests.eval.test_reproduce import BAD, GOOD, answer, found, plan, sight, toy

__all__ = ["toy"]


def world(**changes: Any) -> Benchmark:
    [opened] = open_benchmarks(("demo-world",), Opening(limit=4))
    return replace(opened, **changes)


def report_of(folder: Path, benchmark: Benchmark, **changes: Any) -> dict[str, Any]:
    return reproduce(plan(folder, **changes), [benchmark], "preftilt reproduce", lambda *_: None)


def rows_of(report: dict[str, Any], experiment: str) -> dict[tuple[str, float | None], Any]:
    [benchmark] = report["benchmarks"]
    rows = benchmark["tables"][experiment]["rows"]
    return {(one["method"], one["lam"]): one for one in rows}


# --- repeats --------------------------------------------------------------------------


def repeats(number: int, *answers: Any) -> list[Any]:
    """An item whose pool has one answer in each repeat."""
    firsts = [found(number, one) for one in answers]
    return [
        replace(one, case=replace(one.case, repeat=place))
        for place, one in enumerate(firsts, start=1)
    ]


def test_an_item_is_the_unit_however_often_it_is_answered(tmp_path: Path):
    items = [*repeats(0, GOOD, GOOD), *repeats(1, GOOD, BAD), *repeats(2, BAD, BAD)]
    greedy = CostedAnswer(BAD, AnswerCost(10))
    once = [replace(item, greedy=greedy) if item.case.repeat == 1 else item for item in items]
    compared = [methods.greedy(), methods.one_sample()]
    seen: JudgedItems = sight(once, compared, tmp_path)
    greedy, sample = table(seen, compared, compared[0])["rows"]
    expected = mean_interval(np.array([1.0, 0.5, 0.0]))
    assert sample["items"] == 3
    assert sample["metrics"]["right"] == {
        "mean": expected.mean, "low": expected.low, "high": expected.high, "n": 3,
    }  # fmt: skip
    assert (greedy["items"], greedy["unjudged"]) == (3, 0)
    assert (sample["over"]["difference"]["mean"], sample["over"]["difference"]["n"]) == (0.5, 3)
    assert sample["over"]["test"] == "bootstrap"  # half a right answer is not right or wrong


def test_an_answer_without_a_verdict_is_left_out_of_its_items_mean(tmp_path: Path):
    unknown = answer("unknown", 0, 0)
    items = [*repeats(0, GOOD, unknown), *repeats(1, unknown, unknown), *repeats(2, BAD, GOOD)]
    compared = [methods.one_sample()]
    [row] = table(sight(items, compared, tmp_path), compared, methods.greedy())["rows"]
    assert (row["items"], row["unjudged"]) == (2, 3)
    assert row["metrics"]["right"]["mean"] == 0.75


def test_repeats_draw_anew_and_leave_out_what_takes_no_chances(toy: ToyEngine, tmp_path: Path):
    names = ["table1", "fig3", "fig6"]
    first = report_of(tmp_path, world(), experiments=names, repeats=1)
    third = report_of(tmp_path, world(), experiments=names, repeats=3)
    [pools] = (tmp_path / "records").glob("*-pool-*")
    assert pools.read_bytes().count(b"\n") == 12
    assert pools.read_bytes().count(b'"greedy"') == 4
    [guided] = (tmp_path / "records").glob("*-guided-*")
    assert guided.read_bytes().count(b"\n") == 4
    [trees] = (tmp_path / "records").glob("*-trees-*")
    assert trees.read_bytes().count(b"\n") == 6  # of two items
    before, after = rows_of(first, "table1"), rows_of(third, "table1")
    for name in (("greedy", None), ("Amulet", None)):
        assert after[name] == before[name]
    assert after["one sample", None]["items"] == 4
    assert after["one sample", None]["length"] != before["one sample", None]["length"]
    [benchmark] = third["benchmarks"]
    assert (benchmark["items"], benchmark["repeats"]) == (4, 3)
    text = markdown(blocks(third, {}))
    assert "4 items, each answered 3 times" in text
    assert "each answered" not in markdown(blocks(first, {}))


def test_a_protocol_that_repeats_is_followed_unless_the_user_says_otherwise(
    toy: ToyEngine, tmp_path: Path
):
    for asked, counted in ((None, 2), (1, 1)):
        made = report_of(tmp_path, world(repeats=2), experiments=["fig4"], repeats=asked)
        assert made["benchmarks"][0]["repeats"] == counted


# --- the budget -----------------------------------------------------------------------


def test_a_budget_stops_in_order_and_a_higher_one_goes_on(toy: ToyEngine, tmp_path: Path):
    whole = report_of(tmp_path / "whole", world())
    assert whole["unmeasured"] == []
    half = whole["tokens"] // 2
    partial = report_of(tmp_path / "run", world(), max_tokens_total=half)
    assert half <= partial["tokens"] < whole["tokens"]
    assert partial["unmeasured"]
    text = markdown(blocks(partial, {}))
    assert text.index("**This report is partial**") < text.index("Made by")
    assert f"of a budget of {half:,} tokens, {partial['tokens']:,} are spent" in text
    spent = toy.counts["sampled"]
    assert report_of(tmp_path / "run", world(), max_tokens_total=half) == partial
    assert toy.counts["sampled"] == spent
    done = report_of(tmp_path / "run", world(), max_tokens_total=10 * half)
    for one in (done, whole):  # Seconds are no two times the same.
        for row in one["benchmarks"][0]["tables"]["table1"]["rows"]:
            row["seconds"] = None
    assert done["benchmarks"][0]["tables"]["table1"] == whole["benchmarks"][0]["tables"]["table1"]
    assert (done["tokens"], done["unmeasured"]) == (whole["tokens"], [])


def test_no_more_is_under_way_than_a_budget_can_bear(toy: ToyEngine, tmp_path: Path):
    partial = report_of(tmp_path, world(), experiments=["fig4"], max_tokens_total=1)
    [left] = partial["unmeasured"]
    assert (left["what"], left["items"], left["of"]) == ("demo-world: pool", 2, 4)
    [row] = list(partial["benchmarks"][0]["figures"]["fig4"]["curves"].values())[:1]
    assert row[0]["n"] == 2


def test_tokens_are_those_that_the_engine_sampled_and_scored(toy: ToyEngine, tmp_path: Path):
    made = report_of(tmp_path, world(), experiments=["fig4"])
    assert made["tokens"] == toy.counts["sampled"] + toy.counts["scored"]


def test_a_benchmark_that_the_budget_does_not_reach_is_named_and_the_others_are_told(
    toy: ToyEngine, tmp_path: Path
):
    both = [world(), replace(world(), name="second", title="Second")]
    made = reproduce(
        plan(tmp_path, experiments=["fig4"], max_tokens_total=1), both, "", lambda *_: None
    )
    assert [one["name"] for one in made["benchmarks"]] == ["demo-world"]
    assert {"what": "second: pool", "items": 4, "of": 4} in made["unmeasured"]


def test_a_budget_of_nothing_is_refused(toy: ToyEngine, tmp_path: Path):
    with pytest.raises(
        BadInput, match="max_tokens_total must be a whole number of at least 1, not 0"
    ):
        report_of(tmp_path, world(), experiments=["fig4"], max_tokens_total=0)
    assert toy.counts["sampled"] == 0


def test_two_lengths_of_context_are_told_though_a_third_was_not_reached(
    toy: ToyEngine, tmp_path: Path
):
    sizes = ItemCounts(timed=1)
    whole = report_of(tmp_path / "a", world(), experiments=["table2"], inserted=(0, 2), sizes=sizes)
    made = report_of(
        tmp_path / "b", world(), experiments=["table2"], inserted=(0, 2, 4), sizes=sizes,
        max_tokens_total=whole["tokens"],
    )  # fmt: skip
    tables = made["benchmarks"][0]["tables"]["table2"]
    assert [one["inserted"] for one in tables] == [0, 2]
    assert {row["items"] for one in tables for row in one["rows"]} == {4}


@dataclass(frozen=True, slots=True)
class Lengthening(ChatTokenizer):
    """The toy's words, with a token more for every message: the toy's prompts are all of one length."""

    inner: ToyTokenizer

    @property
    def words(self) -> Sequence[str]:
        return self.inner.words

    def render(self, messages: Sequence[Message]) -> Tokens:
        return (*self.inner.render(messages), *[2] * len(messages))

    def encode(self, text: str) -> Tokens:
        return self.inner.encode(text)

    def encode_response(self, text: str, after: str = "") -> Tokens:
        return self.inner.encode_response(text, after)

    def decode(self, tokens: Tokens) -> str:
        return self.inner.decode(tokens)

    def pieces(self, tokens: Tokens) -> list[str]:
        return self.inner.pieces(tokens)

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        return self.inner.spell_bytes(tokens)

    def encode_raw(self, text: str) -> Tokens:
        return self.inner.encode_raw(text)


def test_items_that_do_not_fit_are_counted_with_one_of_the_reasons(toy: ToyEngine, tmp_path: Path):
    toy.tokenizer = Lengthening(toy.tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    toy.max_context = 30
    made = report_of(tmp_path, world(), experiments=["table2"], inserted=(0, 40))
    [benchmark] = made["benchmarks"]
    assert [(one["part"], one["inserted"], one["items"]) for one in benchmark["skipped"]] == [
        ("pool", 40, 3), ("guided", 40, 3),
    ]  # fmt: skip
    assert [one["inserted"] for one in benchmark["tables"]["table2"]] == [0]
    text = markdown(blocks(made, {}))
    assert (
        "Left out: 3 items have no pool with 40 messages inserted, for such reasons as: the "
        in text
    )


def test_a_few_items_are_told_to_be_few_and_no_difference_on_them_stands_out(
    toy: ToyEngine, tmp_path: Path
):
    made = report_of(tmp_path, world(), experiments=["table3"])
    [row] = made["benchmarks"][0]["tables"]["table3"]["rows"][1:2]
    row["over"] = {"difference": {"mean": 0.5, "low": 0.3, "high": 0.7, "n": 4}, "p": 0.01}
    text = markdown(blocks(made, {}))
    assert "**4 items are too few**" in text
    assert "| +50.0 [+30.0, +70.0] | 0.010 |" in text
    made["benchmarks"][0]["items"] = row["over"]["difference"]["n"] = 40
    text = markdown(blocks(made, {}))
    assert "too few" not in text
    assert "| **+50.0 [+30.0, +70.0]** | 0.010 |" in text
