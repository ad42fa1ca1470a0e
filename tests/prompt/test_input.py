"""Conversations from JSON and preferences from the command line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput
from preftilt.messages import Message, read_messages
from preftilt.prompt import parse_preference
from preftilt.types import Preference

USER = {"role": "user", "content": "What now?"}


def test_a_conversation_is_read_as_written() -> None:
    data = [
        {"role": "system", "content": " Be kind.\n"},
        {"content": "Hello.", "role": "user"},
        {"role": "assistant", "content": ""},
        USER,
    ]
    assert read_messages(data) == [
        Message("system", " Be kind.\n"),
        Message("user", "Hello."),
        Message("assistant", ""),
        Message("user", "What now?"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "messages must be a list of objects with role and content, not null"),
        ("hello", "must be a list .* not a string"),
        (USER, "must be a list .* not an object"),
        ([], "messages is empty: it needs at least one user turn"),
        ([USER, "hello"], r"messages\[1\] must be an object with role and content, not a string"),
        ([[USER]], r"messages\[0\] must be an object .* not a list"),
        ([{"role": "user"}], r"messages\[0\] has no content; every message needs role and content"),
        ([{"content": "Hello."}], r"messages\[0\] has no role"),
        ([{**USER, "mood": "low"}], r"messages\[0\] has an unknown field 'mood'; only role and"),
        ([{**USER, "tool_calls": [{}]}], r"messages\[0\]\.tool_calls is not implemented"),
        ([{"role": "user", "content": None}], r"messages\[0\] has no content"),
        ([{"role": "system", "content": None}, USER], r"messages\[0\] has no content"),
        ([{"role": "user", "content": True}], r"messages\[0\]\.content .* not a boolean"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text must be a string"),
        ([{"role": "user", "content": ["Hello."]}], r"content\[0\] must be a part of type text or"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "", "cache": 1}]}],
            r"content\[0\] has an unknown field 'cache'; only text is read",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
            r"messages\[0\]\.content\[0\] must be a part of type text or image_url",
        ),
        ([{"role": 1.5, "content": "Hello."}], r"messages\[0\]\.role must be .* not a number"),
        (
            [USER, {"role": "tool", "content": "7"}],
            r"messages\[1\]\.role is 'tool'; it must be one of system, user, assistant",
        ),
        (
            [USER, {"role": "system", "content": "Be kind."}, USER],
            r"messages\[1\]\.role: a system message can only come first; move it",
        ),
        (
            [USER, {"role": "assistant", "content": "Rest."}],
            r"messages\[1\]\.role is assistant; the last message must be a user turn",
        ),
        ([{"role": "system", "content": "Be kind."}], "the last message must be a user turn"),
        ([{"role": "user", "content": " \n"}], "the question is empty"),
        ([{"role": "user", "content": "\ud83d"}], r"messages\[0\]\.content is not valid Unicode"),
    ],
)
def test_what_is_no_conversation_is_refused_by_index_and_field(data: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_messages(data)


def test_messages_are_read_as_clients_send_them() -> None:
    data = [
        {"role": "developer", "content": "Be kind."},
        {"role": "system", "content": ""},
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": {}}]},
        {"role": "user", "content": "Hello.", "name": "Eve"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "audio": None},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "reasoning_content": "Hm.", "annotations": [{"type": "url"}]},
        {**USER, "name": None},
    ]
    assert read_messages(data) == [
        Message("system", "Be kind.\n\nBe brief."),
        Message("user", "Hello."),
        Message("assistant", ""),
        Message("user", "Well?"),
        Message("assistant", ""),
        Message("user", "What now?"),
    ]


@pytest.mark.parametrize(
    ("argument", "text", "strength"),
    [
        ("no gamification", "no gamification", None),
        ("no gamification=20", "no gamification", 20.0),
        ("puns=-1.5", "puns", -1.5),
        ("puns=+.5", "puns", 0.5),
        ("puns=1e-3", "puns", 0.001),
        ("puns=0", "puns", 0.0),
        (" no gamification = 3 ", "no gamification", 3.0),
        ("a=b", "a=b", None),
        ("a=b=2", "a=b", 2.0),
        ("take x=5.", "take x=5.", None),
        ("take x=5=20", "take x=5", 20.0),
        ("x=1_000", "x=1_000", None),
        ("x=0x10", "x=0x10", None),
        ("x=٣", "x=٣", None),
        ("answer =", "answer =", None),
        ("two\nlines=2", "two\nlines", 2.0),
        ("1=1 is true", "1=1 is true", None),
        ("=x", "=x", None),
    ],
)
def test_a_number_behind_the_last_equals_sign_is_the_strength(
    argument: str, text: str, strength: float | None
) -> None:
    assert parse_preference(argument) == Preference(text, strength)


@pytest.mark.parametrize("argument", ["", "  ", "=20", " = -1"])
def test_a_preference_without_text_is_refused(argument: str) -> None:
    with pytest.raises(BadInput, match="has no text; write TEXT or TEXT=NUMBER"):
        parse_preference(argument)


@pytest.mark.parametrize("number", ["nan", "NaN", "inf", "-inf", "+Infinity", "1e999"])
def test_a_strength_that_is_not_finite_is_refused(number: str) -> None:
    with pytest.raises(BadInput, match=r"must be a finite number .* end the text with a full stop"):
        parse_preference(f"puns={number}")


@given(
    st.text().map(str.strip).filter(bool),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_text_with_its_strength_comes_back_whole(text: str, strength: float) -> None:
    assert parse_preference(f"{text}={strength!r}") == Preference(text, strength)


@given(st.text())
def test_a_text_that_ends_with_a_full_stop_has_no_strength(text: str) -> None:
    assert parse_preference(f"{text}.") == Preference(f"{text}.".strip(), None)
