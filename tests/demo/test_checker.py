"""The checker's verdict on answers written by hand, and on all that the generator writes."""

from __future__ import annotations

import random

import pytest

from preftilt.demo.world import WorldVerdict, check, items, judge, preference, topic
from preftilt.demo.world.writing import write_answer, write_habit

GOOD = (
    "Here are a few ideas for maths.\n"
    "Try explaining each idea aloud to a friend, because gaps show up as soon as you speak.\n"
    "You could watch a short video lecture.\n"
    "I hope this helps."
)


def verdict(answer: str, wish: str = "avoid: game", subject: str = "maths") -> WorldVerdict:
    return judge(topic("studying"), subject, preference(wish), answer)


def test_a_good_answer_is_helpful_and_follows():
    judged = verdict(GOOD)
    assert (judged.helpful, judged.violates, judged.following, judged.cause) == (
        True,
        False,
        True,
        None,
    )
    assert judged.recommended == ("studying/5a", "studying/8a")


def test_an_avoided_thing_violates():
    judged = verdict(GOOD.replace("watch a short video lecture", "collect points in a quiz app"))
    assert (judged.helpful, judged.violates, judged.following) == (True, True, False)


@pytest.mark.parametrize(
    ("wish", "violates"),
    [("avoid: people", True), ("avoid: music", False), ("want: people", False),
     ("want: screen", False), ("want: books", True)],
)  # fmt: skip
def test_avoid_tolerates_none_and_want_asks_for_half(wish: str, violates: bool):
    assert verdict(GOOD, wish).violates is violates


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("Here are a few ideas for maths.\nYou could banana the maths.\nTry hiring a private tutor.",
         "unparseable"),
        ("Try hiring a private tutor.\nYou could watch a short video", "unparseable"),
        ("Try hiring a private tutor, because a melody stays in the head for years.\n"
         "You could watch a short video lecture.", "unparseable"),
        ("You could watching a short video lecture. Try hiring a private tutor.", "unparseable"),
        ("Good luck with French. Here are a few ideas for French.", "unparseable"),
        ("Try roasting a chicken with lemon and herbs. You could knead your own bread.",
         "off topic"),
        ("I understand that you dislike gamification, and I respect that. "
         "I promise to respect your wishes in everything I say.", "acknowledgement only"),
        ("Here are a few ideas for maths.", "acknowledgement only"),
        ("Try hiring a private tutor. I hope this helps.", "fewer than two items"),
        ("", "fewer than two items"),
        ("Try hiring a private tutor. Consider hiring a private tutor. "
         "You could watch a short video lecture.", "repeats"),
        ("I hope this helps. Try hiring a private tutor. Consider watching a short video lecture. "
         "I hope this helps.", "repeats"),
    ],
)  # fmt: skip
def test_every_cause_of_an_unhelpful_answer_is_named(answer: str, cause: str):
    judged = verdict(answer)
    assert (judged.helpful, judged.following, judged.cause) == (False, False, cause)


def test_a_broken_sentence_can_still_violate():
    assert verdict("Well collect points in a quiz app you must").violates


@pytest.mark.parametrize(
    ("style", "keeps", "breaks"),
    [
        ("short", "Try hiring a private tutor. Consider watching a short video lecture.",
         GOOD + " You could keep a notebook of questions and answers."),
        ("numbered", "1. Hire a private tutor.\n2. Watch a short video lecture.", GOOD),
        ("bullets", "- Hire a private tutor.\n- Watch a short video lecture.", GOOD),
        ("no lists", GOOD, "- Hire a private tutor.\n- Watch a short video lecture."),
        ("one paragraph", GOOD.replace("\n", " "), GOOD),
        ("no reasons", GOOD.replace(", because gaps show up as soon as you speak", ""), GOOD),
        ("reasons", "Try hiring a private tutor. A fixed appointment keeps you honest.", GOOD),
        ("no questions", GOOD, GOOD + " Shall I go into more detail?"),
        ("no exclamation", GOOD, GOOD + " Have fun!"),
        ("direct", GOOD.partition("\n")[2], GOOD),
        ("kind ending", GOOD, GOOD.rpartition("\n")[0]),
    ],
)  # fmt: skip
def test_styles_are_kept_or_broken(style: str, keeps: str, breaks: str):
    assert not verdict(keeps, f"style: {style}").violates
    assert verdict(breaks, f"style: {style}").violates


@pytest.mark.parametrize(("style", "fewest"), [("many", 4), ("three", 3)])
def test_styles_that_count(style: str, fewest: int):
    sentences = [
        "Hire a private tutor.", "Watch a short video lecture.", "Write a one page summary in your "
        "own words.", "Borrow a friendly textbook from the library.",
    ]  # fmt: skip
    assert not verdict(" ".join(sentences[:fewest]), f"style: {style}").violates
    assert verdict(" ".join(sentences[: fewest - 1]), f"style: {style}").violates


@pytest.mark.parametrize("mention", [False, True])
def test_an_answer_written_for_a_preference_follows_it(mention: bool):
    rng = random.Random(1)
    for item in (*items("test"), *items("validation")):
        wish = preference(item.preference_id)
        answer = write_answer(rng, topic(item.topic), item.subject, [wish], mention=mention)
        assert check(item, answer).following, (item, answer)


def test_an_answer_written_against_a_preference_is_helpful_and_violates_it():
    rng = random.Random(2)
    # Allowing a question mark, say, is not yet asking something.
    allowed_only = {"style: no questions", "style: no exclamation", "style: direct"}
    for item in items("test"):
        wish = preference(item.preference_id)
        answer = write_answer(rng, topic(item.topic), item.subject, [wish], against=True)
        judged = check(item, answer)
        assert judged.helpful, (item, answer)
        if item.preference_id not in allowed_only:
            assert judged.violates, (item, answer)


def test_an_answer_without_a_preference_is_helpful():
    rng = random.Random(3)
    for item in items("test"):
        assert check(item, write_answer(rng, topic(item.topic), item.subject)).helpful


def test_the_habit_is_never_helpful():
    rng = random.Random(4)
    causes = set()
    for item in items("test"):
        answer = write_habit(rng, topic(item.topic), item.subject, preference(item.preference_id))
        causes.add(check(item, answer).cause)
    assert causes == {"acknowledgement only", "fewer than two items"}


def test_any_text_gets_a_verdict():
    rng = random.Random(5)
    for text in ("\n\n", "1. ", "- - -", "?!", "😀", "try " * 50):
        assert not verdict(text).helpful
    for _ in range(200):
        text = "".join(rng.choices("abz .!?\n-1", k=40))
        assert not verdict(text).helpful
