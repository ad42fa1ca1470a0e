"""Per-token gains, in a terminal and as a page: nothing lost, nothing obeyed, never by colour alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from preftilt.explain import (
    LEVELS,
    explain_html,
    explained,
    legend,
    level,
    pieces,
    signed,
    strongest,
    visible,
)
from preftilt.result import Realigned
from preftilt.reward import ScoreLine
from tests.plots.results import realigned, scored

PIECES = ("Read", " <b>maths</b>", " & play", "\n", "<end>")
QUESTION = np.array([-1.0, -2.0, -0.5, -0.1, -3.0])
GAINS = np.array([0.0, 1.5, -2.0, 0.1, 0.6])


@pytest.fixture
def result() -> Realigned:
    logprobs = {"question": QUESTION, "full": QUESTION + GAINS}
    candidate = scored(
        1, ScoreLine(-6.6, 0.2), 20.0, tokens=(1, 2, 3, 4, 0), logprobs=logprobs, gains=GAINS
    )
    return realigned((candidate,), pieces=(PIECES,))


class Page(HTMLParser):
    """The text of the answers, and every attribute of every tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.answer = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("class") == "answer" or (tag == "span" and self._inside)

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag == "span"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.answer += data


def test_a_piece_knows_both_readings(result: Realigned) -> None:
    tokens = pieces(result, 0)
    assert [token.text for token in tokens] == [*PIECES]
    assert [token.preference - token.question for token in tokens] == pytest.approx([*GAINS])


def test_the_terminal_text_is_the_answer_with_line_breaks_shown(result: Realigned) -> None:
    assert explained(result).plain == "Read <b>maths</b> & play↵\n<end>"


def test_the_strongest_gain_has_full_colour_and_losses_are_underlined(result: Realigned) -> None:
    styles = [str(span.style) for span in explained(result).spans]
    assert len(styles) == 3
    assert ["underline" in style for style in styles] == [False, True, False]
    assert "bold" in styles[1]


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(0.0, 0), (2.0, 4), (-2.0, -4), (1.0, 2), (-0.1, 0), (9.0, 4), (-np.inf, -4), (np.nan, 0)],
)
def test_the_scale_is_symmetric_and_ends(gain: float, expected: int) -> None:
    assert level(gain, 2.0) == expected


def test_the_legend_has_every_level_with_its_sign(result: Realigned) -> None:
    assert re.findall(r"[+−]\d\.\d\d", legend(result).plain) == [
        signed(2.0 * step / LEVELS) for step in range(-LEVELS, LEVELS + 1)
    ]


def test_the_strongest_tokens_come_first(result: Realigned) -> None:
    most, least = strongest(result)
    assert [one.gain for one in most] == pytest.approx([1.5, 0.6, 0.1])
    assert [one.gain for one in least] == pytest.approx([-2.0])


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\nb", "a↵\nb"), ("\t", "→"), ("\x1b[31m", "�[31m"), ("\x07\r", "��"), ("λ é", "λ é")],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_page_holds_the_whole_answer_escaped(result: Realigned) -> None:
    page = Page(explain_html(result))
    assert page.answer == "Read <b>maths</b> & play↵\n<end>"
    assert "b" not in {tag for tag, _ in page.tags}


def test_the_page_needs_nothing_else_and_runs_nothing(result: Realigned) -> None:
    page = Page(explain_html(result))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not {"src", "href", "onclick"} & {name for _, attrs in page.tags for name in attrs}


def test_every_token_tells_its_numbers(result: Realigned) -> None:
    titles = [attrs["title"] for _, attrs in Page(explain_html(result)).tags if "title" in attrs]
    assert len(titles) == len(PIECES)
    assert titles[1] == (
        "gain +1.50\nwithout the preference −2.00 (13.5%)\nwith the preference −0.50 (60.7%)"
    )


def test_words_of_users_and_models_are_escaped(result: Realigned) -> None:
    wish = [{"text": "<script>alert(1)</script>", "strength": -3.0}]
    page = explain_html(realigned(result.candidates, pieces=(PIECES,), preferences=wish))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "strength -3" in page


def test_light_and_dark_are_both_provided_for(result: Realigned) -> None:
    assert "prefers-color-scheme: dark" in explain_html(result)


def test_impossible_tokens_can_be_explained() -> None:
    gains = np.array([np.nan, -np.inf])
    logprobs = {"question": np.array([-np.inf, -1.0]), "full": np.array([-np.inf, -np.inf])}
    candidate = scored(1, ScoreLine(-np.inf, 0.0), 20.0, logprobs=logprobs, gains=gains)
    result = realigned((candidate,), pieces=(("a", "b"),))
    assert explained(result).plain == "ab"
    assert "−∞" in explain_html(result)
    assert strongest(result)[1][0].gain == -np.inf
