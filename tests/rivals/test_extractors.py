"""What is read off a response as its answer."""

from __future__ import annotations

import pytest

from preftilt.rivals.votes import letter, maths, tally


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<choice>b</choice>", "B"),
        ("First <choice>A</choice>, no: <choice>C</choice>", "A"),
        ("The answer is B. On reflection the answer is (D).", "D"),
        ("Option: C", "C"),
        ("**D**", "D"),
        ("c.", "C"),
        ("B) because it needs no games", "B"),
        ("I would rather not say.", None),
        ("A walk in the park is nice.", None),
        ("", None),
    ],
)
def test_a_letter_is_read_in_the_usual_spellings(text: str, answer: str | None) -> None:
    assert letter(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1}, and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\left( 1, 2 \right)}", "(1,2)"),
        (r"\boxed{\dfrac12}", r"\frac12"),
        (r"\boxed{7} but \boxed{8", "7"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        ("The answer is 42.", "42"),
        ("The answer is 3.14.\nDone", "3.14"),
        ("Answer: $12$", "12"),
        ("It is obvious.", None),
        (r"\boxed{}", None),
    ],
)
def test_a_final_answer_is_the_last_box_or_the_last_statement(
    text: str, answer: str | None
) -> None:
    assert maths(text) == answer


def test_a_vote_adds_up_the_weights_of_equal_answers() -> None:
    assert tally(["a", "b", "a", None], [1.0, 2.5, 0.5, 9.0]) == [1.5, 2.5, 1.5, None]


def test_equal_weights_are_the_majority_vote() -> None:
    answers = ["a", "b", "b", "c"]
    assert tally(answers, [2.0] * 4) == [2.0 * answers.count(answer) for answer in answers]
