"""Choosing λ from stored scores: the choice, how sure it is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from preftilt.errors import BadInput
from preftilt.eval.calibrate import calibrate, draw, markdown, to_json
from preftilt.eval.rated_pools import RatedCandidate, RatedPool, read_pools


def rated(question: float, gain: float, quality: float | None, **rest) -> RatedCandidate:
    known = {"length": 10, "finished": True} | rest
    return RatedCandidate(question_logprob=question, preference_gain=gain, quality=quality, **known)


def noisy(items: int, seed: int = 0) -> list[RatedPool]:
    """Items where the gain tells good candidates from bad ones, and the question log-prob only disturbs."""
    rng = np.random.default_rng(seed)
    pools = []
    for number in range(items):
        good = rng.random(8) < 0.4
        pools.append(
            RatedPool(
                f"i{number}",
                tuple(
                    rated(4 * rng.standard_normal(), 2 * one + rng.standard_normal(), float(one))
                    for one in good
                ),
            )
        )
    return pools


def test_the_best_mean_quality_is_chosen_and_the_first_wins_ties():
    right, wrong = rated(-1.0, 0.0, 0.0), rated(-5.0, 1.0, 1.0)
    pools = [RatedPool(f"i{n}", (right, wrong)) for n in range(30)]
    found = calibrate(pools, lambdas=(1, 3, 5, 20), reductions=("sum", "mean", "centred"))
    assert (found.chosen.option.lam, found.chosen.option.reduction) == (5, "sum")
    assert found.chosen.quality.mean == 1.0
    assert found.chosen.wins == 1.0
    assert found.expected.mean == 1.0
    assert [one.option.lam for one in found.standings] == [1, 3, 5, 20] * 3


def test_options_that_tie_have_all_won_and_cannot_be_told_apart():
    nothing = (rated(-1.0, 0.0, 0.0), rated(-5.0, 1.0, 0.0))
    found = calibrate([RatedPool(f"i{n}", nothing) for n in range(30)])
    assert {one.wins for one in found.standings} == {1.0}
    assert found.within_reach() == list(found.standings)


def test_a_resample_has_a_winner_and_the_expected_quality_is_no_better_than_the_best():
    found = calibrate(noisy(60))
    assert sum(one.wins for one in found.standings) >= 1
    assert found.expected.mean < found.chosen.quality.mean
    assert found.chosen.option.lam > 1
    assert found.chosen.over_plain.difference.low > 0
    assert found.chosen in found.within_reach()


def test_on_noise_alone_what_is_expected_is_what_any_choice_is_worth():
    rng = np.random.default_rng(3)

    def chance() -> RatedCandidate:
        question, gain = rng.standard_normal(2)
        return rated(question, gain, float(rng.random() < 0.5))

    pools = [RatedPool(f"i{n}", tuple(chance() for _ in range(8))) for n in range(80)]
    found = calibrate(pools, lambdas=(1, 2, 5, 20))
    assert found.expected.mean == pytest.approx(0.5, abs=0.1)
    assert found.chosen.quality.mean > found.expected.mean
    assert max(one.wins for one in found.standings) < 0.9


def test_n_takes_the_first_candidates_and_the_mean_divides_by_length():
    short, long = rated(-4, 0, 0.0, length=4), rated(-5, 0, 1.0, length=20)
    pools = [RatedPool(f"i{n}", (short, long, rated(0, 0, 1.0))) for n in range(20)]
    found = calibrate(pools, lambdas=(1,), n=2)
    # Centred: the pool has −0.375 a token, the short one −1 and the long one −0.25.
    assert [one.quality.mean for one in found.standings] == [0.0, 1.0, 1.0]
    assert found.chosen.option.reduction == "mean"
    assert found.n == 2


def test_items_of_unknown_quality_are_left_out_and_counted():
    pools = [*noisy(25), RatedPool("lost", (rated(0, 0, None), rated(0, 0, 1.0)))]
    found = calibrate(pools)
    assert (found.items, found.left_out) == (25, 1)


@pytest.mark.parametrize(
    ("pools", "options", "says"),
    [
        (noisy(5), {}, "has 5 items, and choosing λ needs at least 20"),
        ([RatedPool("lost", (rated(0, 0, None),))], {}, r"\(1 more have a candidate of unknown quality\)"),
        (noisy(25), {"n": 9}, "item 'i0' has 8 candidates, fewer than the 9"),
        ([RatedPool(f"i{n}", (rated(0, 0, 1.0),)) for n in range(20)], {}, "has one candidate"),
        (noisy(25), {"lambdas": (float("nan"),)}, "finite"),
        (noisy(25), {"reductions": ()}, "sum, mean, centred"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_refused(pools, options, says):
    with pytest.raises(BadInput, match=says):
        calibrate(pools, **options)


def test_it_is_told_and_drawn(tmp_path: Path):
    found = calibrate(noisy(40))
    text = markdown(found)
    assert f"| **{found.chosen.option.lam:g}** | {found.chosen.option.reduction} |" in text
    assert text.startswith(f"λ = {found.chosen.option.lam:g}, {found.chosen.option.reduction}:")
    assert json.loads(json.dumps(to_json(found)))["lambda"] == found.chosen.option.lam
    draw(found, tmp_path / "lambda.png")
    assert (tmp_path / "lambda.png").stat().st_size > 10_000


# --- reading -----------------------------------------------------------------------


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


CANDIDATE = {
    "question_logprob": -3.0, "preference_gain": 0.5, "length": 4, "finished": True, "quality": 1,
}  # fmt: skip


def test_results_of_run_are_read_as_they_were_reduced(tmp_path: Path):
    result = {
        "id": "a",
        "settings": {"reduction": "mean", "eos": "exclude"},
        "candidates": [
            {"slot": 1, "tokens": [5, 6, 0], "finish": "eos", "question_logprob": -1.5, "preference_gain": 0.25},
            {"slot": 0, "tokens": [5], "finish": "length", "question_logprob": None, "preference_gain": None},
        ],
    }  # fmt: skip
    ratings = [{"id": "a", "slot": slot, "quality": slot / 2} for slot in (0, 1)]
    source, rates = lines(tmp_path / "a.jsonl", result), lines(tmp_path / "q.jsonl", *ratings)
    [pool] = read_pools([source], qualities=rates)
    cut, whole = pool.candidates
    assert (cut.question_logprob, cut.finished, cut.quality) == (-np.inf, False, 0.0)
    assert (whole.length, whole.question_logprob, whole.preference_gain) == (2, -3.0, 0.5)
    assert whole.quality == 0.5


def test_centred_results_are_read_from_their_log_probs_and_their_discount(tmp_path: Path):
    candidate = {
        "slot": 0, "tokens": [5, 6, 0], "finish": "eos", "question_logprob": 0.0, "preference_gain": 0.0, "quality": 1,
        "logprobs": {"question": [-1, -2, -4], "full": [-1, -1, -4]},
    }  # fmt: skip
    settings = {"reduction": "centred", "eos": "exclude", "gamma": 0.5}
    record = {"id": "a", "settings": settings, "candidates": [candidate]}
    [pool] = read_pools([lines(tmp_path / "a.jsonl", record)])
    [found] = pool.candidates
    assert (found.length, found.question_logprob, found.preference_gain) == (2, -2.0, 0.5)
    assert pool.gamma == 0.5
    del candidate["logprobs"]
    with pytest.raises(BadInput, match=r"centred, which keeps no sums: it needs \"logprobs\""):
        read_pools([lines(tmp_path / "b.jsonl", record)])


def test_centred_is_chosen_where_length_hides_what_is_good():
    rng = np.random.default_rng(0)
    pools = []
    for number in range(60):
        lengths, noise = rng.integers(5, 200, 8), rng.standard_normal(8)
        good = np.arange(8) == rng.integers(8)
        pools.append(
            RatedPool(
                f"i{number}",
                tuple(
                    rated(-2.0 * n + (2.5 * told + e) * n**0.5, 0.0, float(told), length=int(n))
                    for n, told, e in zip(lengths, good, noise, strict=True)
                ),
            )
        )
    found = calibrate(pools, lambdas=(1.0,))
    assert found.chosen.option.reduction == "centred"
    assert found.chosen.quality.mean > max(one.quality.mean for one in found.standings[:2])


def test_per_token_log_probs_and_helpful_and_violates_are_read(tmp_path: Path):
    own = {
        "id": "a",
        "candidates": [
            {"logprobs": {"question": [-1, -2], "full": [-1, -1]}, "tokens": 2, "finish": "eos", "quality": 0.5}
        ],
    }  # fmt: skip
    checked = {
        "id": "b",
        "candidates": [{**CANDIDATE, "helpful": True, "violates": True} | {"quality": None}],
    }
    del checked["candidates"][0]["quality"]
    first, second = read_pools([lines(tmp_path / "a.jsonl", own, checked)])
    assert (first.candidates[0].question_logprob, first.candidates[0].preference_gain) == (-3, 1)
    assert second.candidates[0].quality == 0.0


def test_a_split_is_chosen_by_name(tmp_path: Path):
    rows = [
        {"id": f"{split}{n}", "split": split, "candidates": [CANDIDATE]}
        for split in ("validation", "test")
        for n in range(2)
    ]
    source = lines(tmp_path / "a.jsonl", *rows)
    found = read_pools([source], split="validation")
    assert [one.id for one in found] == ["validation0", "validation1"]
    with pytest.raises(BadInput, match=r"several splits \(test, validation\)"):
        read_pools([source])
    with pytest.raises(BadInput, match=r"no item of the split 'dev'; there are test, validation"):
        read_pools([source], split="dev")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"candidates": [CANDIDATE]}, 'a.jsonl, line 1: has no "id"'),
        ({"id": "a", "candidates": []}, 'needs a list of objects "candidates"'),
        ({"id": "a"}, 'needs a list of objects "candidates"'),
        ({"id": "a", "error": {"type": "EngineError"}}, "item 'a' failed"),
        ({"id": "a", "candidates": [{**CANDIDATE, "quality": "good"}]}, "not a finite number"),
        ({"id": "a", "candidates": [{"quality": 1}]}, 'candidate 0: has neither "finished" nor "finish"'),
        ({"id": "a", "candidates": [{"finished": True}]}, 'has no "length"'),
        ({"id": "a", "candidates": [{"finished": True, "length": 3}]}, 'has no "question_logprob"'),
        (
            {"id": "a", "candidates": [{k: v for k, v in CANDIDATE.items() if k != "quality"}]},
            'has no "quality"',
        ),
        (
            {"id": "a", "candidates": [{**CANDIDATE, "preference_gain": "high"}]},
            "\"preference_gain\" is 'high', not a number",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_file_line_and_field(tmp_path: Path, row, says):
    with pytest.raises(BadInput) as refused:
        read_pools([lines(tmp_path / "a.jsonl", row)])
    assert says in str(refused.value)


def test_the_same_item_twice_is_refused(tmp_path: Path):
    row = {"id": "a", "candidates": [CANDIDATE]}
    with pytest.raises(BadInput, match="two items with the id 'a'"):
        read_pools([lines(tmp_path / "a.jsonl", row, row)])


def test_stored_candidates_are_scored_behind_their_thoughts(tmp_path: Path):
    def candidate(slot: int, thoughts: int) -> dict:
        return {
            "slot": slot,
            "tokens": [5, 1, 6],
            "finish": "eos",
            "reasoning": {"text": "…", "tokens": thoughts},
            "logprobs": {"question": [-9.0, -8.0, -1.0], "full": [-1.0, -1.0, -0.5]},
            "quality": 1.0,
        }

    for reduction in ("sum", "centred"):
        file = tmp_path / f"{reduction}.jsonl"
        record = {"id": "a", "candidates": [candidate(0, 2), candidate(1, 3)]}
        file.write_text(json.dumps(record | {"settings": {"reduction": reduction}}))
        [pool] = read_pools([file])
        answered, unanswered = pool.candidates
        assert (answered.length, answered.question_logprob) == (1, -1.0)
        assert answered.preference_gain == 0.5
        assert unanswered.question_logprob == -np.inf
