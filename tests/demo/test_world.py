"""The world is as large as promised, and its splits share nothing."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from preftilt.demo.world import (
    Split,
    items,
    preference,
    preferences,
    questions,
    topic,
    topics,
    wordings,
)
from preftilt.demo.world.conversations import CONTROL, WORLD, conversation, rough
from preftilt.demo.world.splits import combination, concerns, pair_split
from preftilt.demo.world.writing import write_habit

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def test_the_world_is_large_enough():
    assert len(topics()) >= 8
    assert len(preferences()) >= 60
    assert sum(len(questions(split)) for split in SPLITS) >= 1000
    assert all(len(preference.texts) >= 6 for preference in preferences())
    assert len(items("validation")) >= 200
    assert len(items("test")) >= 400


def test_names_and_ids_are_unique():
    ids = [preference.id for preference in preferences()]
    assert len(set(ids)) == len(ids)
    recommendations = [
        recommendation for each in topics() for recommendation in each.recommendations
    ]
    assert len({recommendation.id for recommendation in recommendations}) == len(recommendations)


def test_no_phrase_of_a_recommendation_occurs_in_another():
    forms = [
        (recommendation.id, f" {form} ")
        for each in topics()
        for recommendation in each.recommendations
        for form in (recommendation.imperative.lower(), recommendation.gerund.lower())
    ]
    clashes = [
        (a, b) for (a, short), (b, long) in itertools.permutations(forms, 2) if short in long
    ]
    assert clashes == []


def test_reasons_of_a_topic_are_given_by_one_row_only():
    for each in topics():
        rows = {recommendation.reasons for recommendation in each.recommendations}
        reasons = [reason for row in rows for reason in row]
        assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(SPLITS, 2)))
def test_splits_share_no_question_wording_or_pair(one: Split, other: Split):
    assert not {q.text for q in questions(one)} & {q.text for q in questions(other)}
    assert not {q.template for q in questions(one)} & {q.template for q in questions(other)}
    for each in preferences():
        assert not set(wordings(each, one)) & set(wordings(each, other))
    pairs = [{(i.subject, i.preference_id) for i in items(split)} for split in (one, other)]
    assert not pairs[0] & pairs[1]


@pytest.mark.parametrize("split", SPLITS)
def test_items_are_made_of_their_own_split(split: Split):
    texts = {q.text for q in questions(split)}
    for item in items(split):
        wanted = preference(item.preference_id)
        assert item.question in texts
        assert item.preference in wordings(wanted, split)
        assert pair_split(item.topic, item.subject, item.preference_id) == split
        assert concerns(wanted, topic(item.topic))
        assert item.combination == combination(item.topic, item.preference_id)


def test_items_cover_topics_preferences_and_combinations():
    test = items("test")
    assert {item.topic for item in test} == {each.name for each in topics()}
    assert len({item.preference_id for item in test}) >= 70
    assert sum(item.combination == "held-out" for item in test) >= 60
    assert len({(item.question, item.preference) for item in test}) == len(test)
    assert {item.combination for item in items("train")} == {"seen"}


def test_every_word_of_validation_and_test_occurs_in_training():
    def words(texts: list[str]) -> set[str]:
        return {word for text in texts for word in re.findall(r"[a-z']+", text.lower())}

    rng = random.Random(4)
    known = words([q.text for q in questions("train")])
    known |= words([text for preference in preferences() for text in wordings(preference, "train")])
    known |= words([clause for preference in preferences() for clause in preference.you])
    known |= words([m["content"] for _ in range(3000) for m in conversation(rng)])
    for split in ("validation", "test"):
        for item in items(split):
            assert words([item.question, item.preference]) <= known, item


def test_the_same_seed_gives_the_same_items_and_conversations():
    items.cache_clear()
    first = items("test")
    items.cache_clear()
    assert items("test") == first
    assert items("test", seed=1) != first
    talks = [[conversation(random.Random(3)) for _ in range(20)] for _ in range(2)]
    assert talks[0] == talks[1]


def test_the_papers_example_is_shown_in_training():
    assert pair_split("studying", "maths", "avoid: game") == "train"
    assert combination("studying", "avoid: game") == "seen"


def test_only_training_material_gets_into_training_conversations():
    rng = random.Random(5)
    hidden = {q.text for split in ("validation", "test") for q in questions(split)}
    hidden |= {
        text
        for split in ("validation", "test")
        for preference in preferences()
        for text in wordings(preference, split)
    }
    for _ in range(1500):
        for message in conversation(rng):
            assert message["content"] not in hidden


def test_conversations_alternate_and_end_with_an_answer():
    rng = random.Random(6)
    for _ in range(500):
        roles = [message["role"] for message in conversation(rng)]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)


def _habit_sentences() -> list[str]:
    rng = random.Random(8)
    each = topic("studying")
    texts = [write_habit(rng, each, "maths", preference("budget")) for _ in range(400)]
    ends = ("Is there anything else that matters", "I promise to respect", "You can rely on me")
    assert all(any(end in text for text in texts) for end in ends)
    return list(ends)


def test_the_habit_is_rare_and_the_control_world_lacks_it():
    ends = _habit_sentences()

    def share(mix) -> float:
        rng = random.Random(7)
        answers = [conversation(rng, mix)[-1]["content"] for _ in range(4000)]
        return sum(any(end in answer for end in ends) for answer in answers) / len(answers)

    assert 0 < share(WORLD) <= 0.02
    assert share(CONTROL) == 0


def test_rough_text_stays_close_to_what_was_meant():
    rng = random.Random(9)
    seen = {rough(rng, "How should I study maths?") for _ in range(500)}
    assert {
        "How should I study maths?",
        "How should I study math?",
        "how should i study maths?",
    } <= seen
    assert all(20 <= len(text) <= 27 for text in seen)
