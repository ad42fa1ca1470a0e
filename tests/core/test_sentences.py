"""Sentences of a text: where they end, and that nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.ablation import sentences, without


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (
            "I dislike games. I like music! Do you?",
            ["I dislike games.", "I like music!", "Do you?"],
        ),
        ("Be brief, e.g. one line. Ask Dr. Who.", ["Be brief, e.g. one line.", "Ask Dr. Who."]),
        ("J. R. Tolkien. Use 3.5 points.", ["J. R. Tolkien.", "Use 3.5 points."]),
        ("# Style\n- Be brief.\n- No lists\n", ["# Style", "- Be brief.", "- No lists"]),
        ("1. First do this. 2. Then that.", ["1. First do this.", "2. Then that."]),
        ("Take option 2. Then stop.", ["Take option 2.", "Then stop."]),
        ('Say "Stop." Then (no more.) Leave.', ['Say "Stop."', "Then (no more.)", "Leave."]),
        ("Well... maybe not.", ["Well... maybe not."]),
        ("我喜欢猫。你呢？好！", ["我喜欢猫。", "你呢？", "好！"]),
        ("Yes.\n\n---\n\nNo.", ["Yes.\n\n---", "No."]),
        ("no full stop", ["no full stop"]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_a_sentence_ends_where_a_reader_ends_it(text, pieces):
    assert [piece.strip() for piece in sentences(text)] == pieces


@given(st.text(alphabet="aB1 .!?\n。\"')-", max_size=60))
def test_sentences_joined_are_the_text(text):
    pieces = sentences(text)
    assert "".join(pieces) == text
    assert len(pieces) < 2 or all(any(map(str.isalnum, piece)) for piece in pieces)


def test_a_sentence_is_left_out_and_the_rest_stays_as_it_was():
    pieces = sentences("Be kind.  Be brief.\nBe gone.")
    assert without(pieces, {0}) == "Be brief.\nBe gone."
    assert without(pieces, {1}) == "Be kind.  Be gone."
    assert without(pieces, {2}) == "Be kind.  Be brief."
    assert without(pieces, ()) == "Be kind.  Be brief.\nBe gone."


def test_white_space_around_a_text_stays_whichever_sentence_is_left_out():
    pieces = sentences("  Be kind. Be brief.\n")
    assert [without(pieces, {place}) for place in (0, 1)] == ["  Be brief.\n", "  Be kind.\n"]
    assert without(pieces, {0, 1}) == ""
