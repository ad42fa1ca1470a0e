"""Votes among candidates: every candidate votes for the answer it gives, and the answer with most weight wins.

``letter`` reads multiple-choice answers off a response's text, ``maths`` final answers of mathematics; None where there
is none. Two responses vote for the same answer if their extracted texts are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from preftilt.rivals.methods import AnswerKind

Extractor = Callable[[str], str | None]

_TAGGED = re.compile(r"<choice>\s*\(?([A-Z])\b[^<]*</choice>", re.IGNORECASE)
_STATED = re.compile(r"\b(?i:answer|choice|option)\b\s*(?:is|:)?\s*[*(\[]*([A-Z])\b(?!['’])")
_BARE = re.compile(r"\s*[*(\[]*([A-Za-z])[*)\].:]*\s*\Z")
_LEADING = re.compile(r"\s*[*(\[]*([A-Z])[)\].:]")
_FINAL = re.compile(
    r"\banswer\b(?:\s+is)?\s*[:=]?\s*\$?([^\n$]*\d[^\n$]*?)\$?\s*(?:\.|\n|\Z)", re.IGNORECASE
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_WORDS = re.compile(r"\\(?:left|right|displaystyle|,|;|!|quad)(?![a-zA-Z])")


def letter(text: str) -> str | None:
    """The letter of a multiple-choice answer, in upper case.

    In this order: the first ``<choice>B</choice>``; the last "answer is B" or "Option: (B)"; a response that is nothing
    but a letter; a letter that the response begins with ("B) because …").
    """
    tagged = _TAGGED.search(text)
    if tagged:
        return tagged[1].upper()
    stated = _STATED.findall(text)
    if stated:
        return stated[-1].upper()
    alone = _BARE.match(text) or _LEADING.match(text)
    return alone[1].upper() if alone else None


def maths(text: str) -> str | None:
    r"""The final answer of a solution, as votes compare it (see :func:`final_answer`).

    Spaces, ``$``, ``\left`` and ``\right`` and a final full stop are left out, ``\dfrac`` and ``\tfrac`` are read as
    ``\frac``; 0.5 and ``\frac{1}{2}`` stay two answers (the published code compares bare strings, too).
    """
    answer = final_answer(text)
    return None if answer is None else _plain(answer)


def final_answer(text: str) -> str | None:
    r"""What stands in a solution's last ``\boxed{…}``, else behind its last "answer is", as it was written."""
    boxes = [_braced(text, match.end()) for match in _BOX.finditer(text)]
    closed = [box for box in boxes if box is not None]
    stated = [*_FINAL.findall(text), *closed]
    return stated[-1] if stated else None


EXTRACTORS: dict[AnswerKind, Extractor] = {"letter": letter, "maths": maths}
"""The extractors by the name that settings give them."""


def _braced(text: str, start: int) -> str | None:
    """What stands between the brace at ``start`` and its partner; None if it is never closed."""
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[start + 1 : at]
    return None


def _plain(answer: str) -> str | None:
    answer = _WORDS.sub("", answer.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
    return re.sub(r"[\s$]", "", answer).rstrip(".") or None


def tally(answers: Sequence[str | None], weights: Sequence[float]) -> list[float | None]:
    """For each candidate the total weight of the answer it gives; None for one that gives none.

    With equal weights this is the majority vote (self-consistency). The published code of REAR weighs a vote by
    1 + the candidate's score as a mean over tokens; such a weight can be negative, and an answer then loses by every
    further vote.
    """
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    return [None if answer is None else totals[answer] for answer in answers]
