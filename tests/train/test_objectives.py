"""The demo world's pairs: rewards as the checker has them, splits that share nothing, rows that training reads."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from preftilt.cli.app import main
from preftilt.demo.world import WorldItem, check, items, preference, topic
from preftilt.errors import BadInput
from preftilt.eval.objectives import PairSettings, make_pairs, objectives, rewards, some_items
from preftilt.train.pairs import objective_names, read_pairs

SMALL = PairSettings(sizes=(30, 12, 12))


def item_of(kind: str) -> WorldItem:
    return next(one for one in items("train") if one.kind == kind)


def answer(item: WorldItem, *, tagged: int, others: int) -> str:
    """Bare recommendations, so many of them with the preference's tag."""
    key = preference(item.preference_id).key
    recommendations = topic(item.topic).recommendations
    chosen = [candidate for candidate in recommendations if key in candidate.tags][:tagged]
    chosen += [candidate for candidate in recommendations if key not in candidate.tags][:others]
    return "\n".join(f"Try {recommendation.gerund}." for recommendation in chosen)


@pytest.mark.parametrize(
    ("kind", "tagged", "others", "helpful", "keeping"),
    [
        ("avoid", 0, 3, 0.6, 1.0),
        ("avoid", 1, 3, 0.8, 0.75),
        ("avoid", 2, 0, 0.4, 0.0),
        ("want", 2, 0, 0.4, 1.0),
        ("want", 1, 3, 0.8, 0.5),
        ("want", 0, 2, 0.4, 0.0),
        ("avoid", 0, 1, 0.0, 1.0),
        ("want", 4, 3, 1.0, 1.0),
    ],
)
def test_rewards_are_shares_counted_by_the_checker(kind, tagged, others, helpful, keeping):
    item = item_of(kind)
    text = answer(item, tagged=tagged, others=others)
    told = rewards(item, text)
    assert told["helpful"] == pytest.approx(helpful)
    assert told["keeping"] == pytest.approx(keeping)
    assert told["brief"] == pytest.approx(1 - len(text.split()) / 80)


def test_an_answer_that_recommends_nothing_keeps_no_preference_and_a_long_one_is_not_brief():
    item = item_of("avoid")
    assert rewards(item, "I hear you.")["keeping"] == 0
    assert rewards(item, "word " * 200)["brief"] == 0


def test_a_style_is_kept_or_not():
    item = item_of("style")
    rows = make_pairs(replace(SMALL, sizes=(200, 1, 1)))["train"]
    styles = [one for one in some_items("train", 200, 0) if one.kind == "style"]
    by_id = {style.id: style for style in styles}
    assert item.id in {style.id.rpartition("-")[0] for style in styles}
    told = [row for row in rows if row["id"] in by_id]
    assert told
    for row in told:
        for text, kept in zip(row["responses"], row["rewards"]["keeping"], strict=True):
            verdict = check(by_id[row["id"]], text)
            assert kept == float(bool(verdict.recommended) and not verdict.violates)


def test_splits_share_no_question_and_no_wording():
    made = make_pairs(SMALL)
    prompts = [{json.dumps(row["messages"]) for row in rows} for rows in made.values()]
    assert all(prompts)
    texts = [
        [{row["messages"][place]["content"] for row in rows} for rows in made.values()]
        for place in (0, 1)
    ]
    for parts in (prompts, *texts):
        assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))


def test_the_preferred_answer_is_the_one_with_the_higher_reward_and_ties_are_left_out():
    for row in make_pairs(SMALL)["train"]:
        for name, (first, second) in row["rewards"].items():
            expected = None if first == second else int(second > first)
            assert row["preferred"].get(name) == expected


def test_the_same_settings_make_the_same_pairs_and_another_seed_others():
    assert make_pairs(SMALL) == make_pairs(SMALL)
    assert make_pairs(SMALL) != make_pairs(replace(SMALL, seed=1))


def test_more_items_than_one_draw_has_are_different_draws():
    many = some_items("train", 700, 0)
    assert len({candidate.id for candidate in many}) == 700
    assert some_items("train", 30, 0) == many[:30]


@pytest.mark.parametrize("changed", [{"sizes": (0, 1, 1)}, {"answers": 1}])
def test_settings_that_make_no_pairs_are_refused(changed):
    with pytest.raises(BadInput):
        PairSettings(**changed)


def test_training_reads_what_the_command_writes(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(
            ["demo-pairs", "--out", str(tmp_path / "pairs"), "--items", "20,5,5", "--answers", "3"]
        )
    assert ended.value.code == 0
    read = read_pairs(str(tmp_path / "pairs" / "train.jsonl"))
    assert f"{len(read.pairs)} train" in capsys.readouterr().out
    assert 20 < len(read.pairs) <= 60
    assert set(objective_names(read.pairs)) == {objective.name for objective in objectives()}


@pytest.mark.model
def test_a_model_s_own_answers_make_pairs():
    settings = PairSettings(source="demo", sizes=(3, 1, 1), answers=3)
    made = make_pairs(settings)
    assert made["train"]
    assert all("<|end|>" not in text for row in made["train"] for text in row["responses"])
