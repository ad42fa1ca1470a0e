"""From a judge's words to PrefEval's numbers: reading, the algebra, what is not known."""

from __future__ import annotations

from itertools import product

import pytest

from preftilt.eval.benchmarks.prefeval import (
    VALUES,
    Acknowledged,
    outcome,
    read_acknowledged,
    read_choice,
    read_yes_no,
    settle,
)

ERRORS = ("unhelpful", "inconsistent", "hallucinated_preference", "preference_unaware")
BOOLS = (True, False)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<answer>Yes</answer>", True),
        ("<explanation>No way.</explanation>\n<ANSWER> yes. </ANSWER>", True),
        ("<answer>**No**</answer><answer>Yes</answer>", False),
        ("<answer>[No]</answer>", False),
        ("<answer></answer>", None),
        ("<answer>Unknown</answer>", None),
        ("<answer>Note that</answer>", None),
        ("Yes", None),
        ("<answer>Yes", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_from_the_first_answer_tag(text: str, verdict: bool | None) -> None:
    assert read_yes_no(text) is verdict


def test_an_acknowledgement_comes_with_its_sentence() -> None:
    text = "<preference>\nsince you avoid boats </preference>\n<answer>Yes</answer>"
    assert read_acknowledged(text) == Acknowledged(True, "since you avoid boats")
    assert read_acknowledged("<answer>No</answer>") == Acknowledged(False, "")
    assert read_acknowledged("<preference>x</preference>") is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Because. <choice>b</choice> <choice>C</choice>", "B"),
        ("<Choice> D </Choice>", "D"),
        ("<choice>E</choice>", None),
        ("<choice>AB</choice>", None),
        ("A", None),
    ],
)
def test_a_choice_is_the_first_tagged_letter(text: str, letter: str | None) -> None:
    assert read_choice(text) == letter


def test_following_is_having_none_of_the_four_errors() -> None:
    """The benchmark's own aggregation, row by row, for every combination of verdicts."""
    for ack, hall, viol, helpful in product(BOOLS, repeat=4):
        found = outcome(acknowledged=ack, hallucinated=hall, violates=viol, helpful=helpful)
        really_hall = ack and hall
        expected = {
            "unhelpful": not helpful,
            "inconsistent": helpful and ack and not really_hall and viol,
            "hallucinated_preference": helpful and really_hall and viol,
            "preference_unaware": helpful and not ack and viol,
        }
        assert {name: found[name] for name in ERRORS} == {k: float(v) for k, v in expected.items()}
        assert found["following"] == float(not any(expected.values()))
        assert found["following"] == float(helpful and not viol)
        assert sum(v or 0 for k, v in found.items() if k in ERRORS) <= 1


def test_what_is_not_known_is_not_guessed() -> None:
    """A value that is known must be the same for every way of filling in what is not known."""
    for ack, hall, viol, helpful in product((True, False, None), repeat=4):
        found = outcome(acknowledged=ack, hallucinated=hall, violates=viol, helpful=helpful)
        filled = [
            outcome(acknowledged=a, hallucinated=h, violates=v, helpful=p)
            for a, h, v, p in product(
                *((x,) if x is not None else BOOLS for x in (ack, hall, viol, helpful))
            )
        ]
        for name in VALUES:
            possible = {one[name] for one in filled}
            assert found[name] in possible or found[name] is None
            if found[name] is not None:
                assert possible == {found[name]}


def test_two_checks_are_enough_for_the_headline_number() -> None:
    found = outcome(acknowledged=None, hallucinated=None, violates=True, helpful=True)
    assert (found["following"], found["unhelpful"]) == (0.0, 0.0)
    assert found["inconsistent"] is found["preference_unaware"] is None


def test_junk_is_left_out_or_read_as_the_benchmarks_code_does() -> None:
    assert settle(None, "unscored", unread=True, official=True) is None
    assert settle(None, "official", unread=True, official=True) is True
    assert settle(None, "official", unread=False, official=True) is None
    assert settle(False, "official", unread=True, official=True) is False
