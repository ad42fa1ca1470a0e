"""Sentences of a text, lossless: joined they are the text, so that one can be left out and the rest stays as it was.

Line breaks end a sentence, and so do full stops, question and exclamation marks before white space, the Chinese and
Japanese ones anywhere. Abbreviations, initials and the numbers of a list end none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

_END = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s)\s*|[。！？]+[」』”’）]*\s*|\s*\n\s*")
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘«])([^\s(\[\"'“‘«]*)\Z")
_ENDS_NOTHING = re.compile(
    r"(?:e\.g|i\.e|cf|vs|viz|mr|mrs|ms|dr|prof|sr|jr|approx|fig|eq|resp|[^\W\d]|z\.b|d\.h|bzw)\.",
    re.IGNORECASE,
)
_NUMBER_OF_A_LIST = re.compile(r"[\s#>*_(-]*\d+\.")


def sentences(text: str) -> list[str]:
    """``text`` cut behind every sentence; white space behind one belongs to it, and every piece has a letter or digit.

    Returns the whole text as one sentence where it has neither, and nothing for an empty text.
    """
    pieces: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if not _goes_on(text, start, end):
            pieces.append(text[start : end.end()])
            start = end.end()
    if start < len(text):
        pieces.append(text[start:])
    joined: list[str] = []
    for piece in pieces:
        if joined and not (_has_words(piece) and _has_words(joined[-1])):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def without(pieces: Sequence[str], left_out: Collection[int]) -> str:
    """The text of ``pieces`` (:func:`sentences`) without those at the places ``left_out``; outer white space stays.

    Empty if nothing else is left.
    """
    text = "".join(pieces)
    rest = "".join(piece for place, piece in enumerate(pieces) if place not in left_out).strip()
    before = text[: len(text) - len(text.lstrip())]
    return f"{before}{rest}{text[len(text.rstrip()) :]}" if rest else ""


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence from ``start`` goes on behind what looks like its end: ``end``."""
    if "\n" in end[0] or not end[0].startswith("."):
        return False
    if text[end.end() : end.end() + 1].islower():
        return True
    so_far = text[start : end.start() + 1]
    word = _LAST_WORD.search(so_far)
    return bool(_NUMBER_OF_A_LIST.fullmatch(so_far) or (word and _ENDS_NOTHING.fullmatch(word[1])))


def _has_words(piece: str) -> bool:
    return any(character.isalnum() for character in piece)
