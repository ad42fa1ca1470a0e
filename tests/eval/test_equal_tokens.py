"""What tokens buy: strategies over stored draws, each beside best-of-M at equal tokens."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftilt.errors import BadInput
from preftilt.eval.answers import RecordedAnswer
from preftilt.eval.benchmarks import open_benchmarks
from preftilt.eval.harness.benchmark import Opening
from preftilt.eval.report import markdown
from preftilt.eval.reproduce import equal_tokens
from preftilt.eval.reproduce.equal_tokens import (
    DropLosers,
    Halving,
    ItemDraws,
    PickRule,
    Spread,
    StopEarly,
    best_of,
    expected_improvement,
    lead,
    spend,
    spend_on,
)
from preftilt.eval.reproduce.experiments import EQUAL_TOKENS
from preftilt.eval.reproduce.report import blocks
from preftilt.eval.reproduce.running import reproduce
from preftilt.reward import Reward
from preftilt.testing.toy import ToyEngine
from tests.eval.test_reproduce import answer, plan, report_of
from tests.eval.test_reproduce import toy as toy  # the fixture

PLAIN = PickRule("sum, λ = 1", 1.0, Reward())


def drawn(tokens: list[float], **rest: Any) -> RecordedAnswer:
    """An answer whose tokens have these scores at λ = 1."""
    return answer(
        "an answer", 0.0, sum(tokens), length=len(tokens),
        questions=np.zeros(len(tokens)), gains=np.array(tokens), **rest,
    )  # fmt: skip


def items_of(seed: int, count: int, n: int = 5, longest: int = 9) -> list[ItemDraws]:
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        answers = [
            drawn((-rng.exponential(size=length)).tolist(), finished=bool(rng.random() < 0.8))
            for length in rng.integers(1, longest + 1, size=n).tolist()
        ]
        items.append(ItemDraws(answers, rng.integers(0, 2, size=n).astype(float)))
    return items


def test_best_of_m_is_the_mean_over_all_ways_to_take_m_draws():
    for draws in items_of(0, 5):
        for m in range(1, 6):
            by_hand = np.zeros(5)
            subsets = list(itertools.combinations(range(5), m))
            for subset in subsets:
                by_hand[draws.ranked(PLAIN, subset)[0]] += 1 / len(subsets)
            choice = best_of(draws, PLAIN, m)
            np.testing.assert_allclose(choice.chances, by_hand)
            assert choice.tokens == pytest.approx(m / 5 * sum(draws.lengths))
        between = best_of(draws, PLAIN, 2.25).chances
        two, three = (best_of(draws, PLAIN, m).chances for m in (2, 3))
        np.testing.assert_allclose(between, 0.75 * two + 0.25 * three)


def test_halving_goes_on_with_the_best_beginnings_and_counts_what_it_drew():
    late = drawn([-3.0, -3.0, 0.0, 0.0])
    early = drawn([-1.0, -1.0, -9.0])
    short = drawn([-2.5])
    draws = ItemDraws([late, early, short, drawn([-4.0, -4.0])], np.zeros(4))
    [choice] = Halving(((2, 0.5),))([draws], PLAIN)
    # After two tokens: −6, −2, −2.5 and −8, so that the best answer but one is kept, and the worst.
    assert choice.chances.tolist() == [0, 0, 1, 0]
    assert choice.tokens == 2 + 3 + 1 + 2
    [all_the_way] = Halving(((9, 0.25),))([draws], PLAIN)
    assert all_the_way.tokens == sum(draws.lengths)
    assert all_the_way.chances.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("every", [1, 16])
def test_dropping_what_cannot_win_gives_best_of_n_for_fewer_tokens(every: int):
    items = items_of(1, 40, n=6)
    choices = DropLosers(every)(items, PLAIN)
    for draws, choice in zip(items, choices, strict=True):
        np.testing.assert_array_equal(choice.chances, best_of(draws, PLAIN, 6).chances)
        assert choice.tokens <= sum(draws.lengths)
    saved = sum(sum(d.lengths) - c.tokens for d, c in zip(items, choices, strict=True))
    assert (saved > 0) == (every < 9)


def test_the_expected_improvement_is_that_of_a_normal_distribution():
    known = [0.0, 1.0, 3.0, 2.0]
    sampled = np.random.default_rng(0).normal(np.mean(known), np.std(known, ddof=1), 400_000)
    assert expected_improvement(known) == pytest.approx(
        np.maximum(sampled - 3.0, 0).mean(), rel=0.02
    )
    assert expected_improvement([1.0, 1.0]) == 0.0


def test_a_draw_is_made_while_it_is_worth_its_tokens():
    items = items_of(2, 20)
    n, everything = 5, [sum(draws.lengths) for draws in items]
    free = StopEarly(0.0)(items, PLAIN)
    assert [choice.tokens for choice in free] == pytest.approx(everything)
    dear = StopEarly(1e9)(items, PLAIN)
    assert [choice.tokens for choice in dear] == pytest.approx(
        [2 / n * each for each in everything]
    )
    between = [sum(c.tokens for c in StopEarly(price)(items, PLAIN)) for price in (0.01, 0.1, 1.0)]
    assert between == sorted(between, reverse=True)


def test_what_is_spread_ends_with_the_draw_that_spends_the_budget():
    items = items_of(3, 20)
    choices = Spread(0.7)(items, PLAIN)
    spent = spend(items, PLAIN, choices)
    assert 0.7 <= spent.share < 0.7 + 9 / sum(sum(draws.lengths) for draws in items)
    assert (
        len({round(c.tokens / sum(d.lengths), 6) for c, d in zip(choices, items, strict=True)}) > 1
    )
    whole = Spread(1.0)(items, PLAIN)
    for draws, choice in zip(items, whole, strict=True):
        np.testing.assert_allclose(choice.chances, best_of(draws, PLAIN, 5).chances)


def test_the_lead_is_0_for_one_draw_and_1_for_all():
    items = items_of(4, 10)
    assert lead(spend_on(items, PLAIN, 1), items, PLAIN) == pytest.approx(0.0)
    assert lead(spend_on(items, PLAIN, 5), items, PLAIN) == pytest.approx(1.0)
    same = [ItemDraws([drawn([-1.0])] * 2, np.zeros(2))]
    assert lead(spend_on(same, PLAIN, 2), same, PLAIN) is None


def test_an_answer_that_is_impossible_under_a_view_never_wins():
    impossible = answer("an answer", float("-inf"), 0.0, length=4)
    draws = ItemDraws([impossible, drawn([-5.0, -5.0])], np.array([1.0, 0.0]))
    for choice in (*Halving(((1, 0.5),))([draws], PLAIN), *DropLosers(1)([draws], PLAIN)):
        assert choice.chances.tolist() == [0, 1]


def test_rules_are_chosen_on_validation_items_and_stand_beside_equal_tokens(
    toy: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(equal_tokens, "HALVINGS", [Halving(((4, 0.5),)), Halving(((8, 0.25),))])
    monkeypatch.setattr(equal_tokens, "PICKS", [PLAIN])
    report = json.loads(
        json.dumps(report_of(tmp_path, experiments=[EQUAL_TOKENS]), allow_nan=False)
    )
    [world] = report["benchmarks"]
    unguided, guided = world[EQUAL_TOKENS]["pools"]
    assert (unguided["draws"], unguided["items"], unguided["validation"]) == (4, 4, 20)
    assert guided["pool"] == "guided draws at λ = 2"
    for part in (unguided, guided):
        names = {row["strategy"].partition(":")[0] for row in part["strategies"]}
        assert names == {"halving", "stop early", "spread over rows", "drop what cannot win"}
        for row in part["strategies"]:
            assert row["m"] == pytest.approx(row["share"] * part["draws"])
            if row["strategy"] == "drop what cannot win":
                assert row["over_all"]["difference"]["mean"] == 0.0
                assert row["lead"] == pytest.approx(1.0)
    text = markdown(blocks(report, {}))
    assert text.startswith("# What tokens buy")
    assert "#### Guided draws at λ = 2, 4 an item" in text
    counts = dict(toy.counts)
    assert report_of(tmp_path, experiments=[EQUAL_TOKENS]) == report
    assert toy.counts == counts


def test_without_validation_items_there_is_nothing_to_choose_on(toy: ToyEngine, tmp_path: Path):
    world = open_benchmarks(("demo-world",), Opening(limit=2))
    with pytest.raises(BadInput, match="--validation 100"):
        reproduce(plan(tmp_path, experiments=[EQUAL_TOKENS]), world, "", lambda *_: None)
    with pytest.raises(BadInput, match="--n and --drawn of 2 or more"):
        report_of(tmp_path, experiments=[EQUAL_TOKENS], drawn=1)
    assert toy.counts["sampled"] == 0
