"""From a judge's words to verdicts, and from verdicts to PrefEval's numbers; pure functions.

A verdict is True, False or None (not known), and so is everything computed from it: an error is known to be absent as
soon as one of its conditions is known to fail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from preftilt.eval.prefeval.protocol import Junk

Known = bool | None

VALUES = (
    "following",
    "unhelpful",
    "inconsistent",
    "hallucinated_preference",
    "preference_unaware",
    "violates",
    "acknowledged",
)
"""What an item is scored with: whether the answer follows the preference, the four errors that keep it from it, and two
of the judge's verdicts."""

_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_CHOICE = re.compile(r"<choice>\s*([ABCD])\s*</choice>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Whether the answer refers to a preference, and its sentence that does; empty if the judge quoted none."""

    verdict: bool
    restatement: str


def tagged(text: str, tag: str) -> str | None:
    """What stands in the first ``<tag>…</tag>``; None without one."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return None if match is None else match[1].strip()


def read_yes_no(text: str) -> bool | None:
    """The judge's Yes or No; None if its answer tag is missing or says neither.

    The benchmark's code searches the tag for "yes" and "no" anywhere ("unknown" has a no), and reads a missing tag as
    neither; here it must begin with one of them.
    """
    said = tagged(text, "answer")
    match = _YES_NO.match(said or "")
    return None if match is None else match[1].lower() == "yes"


def read_acknowledged(text: str) -> Acknowledged | None:
    """The judge's answer to the first check; None if it cannot be read."""
    verdict = read_yes_no(text)
    if verdict is None:
        return None
    return Acknowledged(verdict, tagged(text, "preference") or "")


def read_choice(text: str) -> str | None:
    """The letter of the first ``<choice>X</choice>`` with X from A to D, in upper case; None without one."""
    match = _CHOICE.search(text)
    return None if match is None else match[1].upper()


def settle(verdict: Known, junk: Junk, *, unread: bool, official: bool) -> Known:
    """A verdict as the protocol takes it: one that cannot be read stays unknown, or is the benchmark's default."""
    if verdict is None and unread and junk == "official":
        return official
    return verdict


def outcome(
    *, acknowledged: Known, hallucinated: Known, violates: Known, helpful: Known
) -> dict[str, float | None]:
    """The numbers of one item, by the names of :data:`VALUES`.

    acknowledged: the answer refers to a preference. hallucinated: it refers to another one than the user's (counts only
    where acknowledged). The four errors exclude each other, and an answer follows the preference if it has none of
    them, which is the same as being helpful and not violating.
    """
    wrong = _both(helpful, violates)
    of_another = _both(acknowledged, hallucinated)
    of_this = _both(acknowledged, _not(hallucinated))
    verdicts: dict[str, Known] = {
        "following": _both(helpful, _not(violates)),
        "unhelpful": _not(helpful),
        "inconsistent": _both(wrong, of_this),
        "hallucinated_preference": _both(wrong, of_another),
        "preference_unaware": _both(wrong, _not(acknowledged)),
        "violates": violates,
        "acknowledged": acknowledged,
    }
    return {name: None if verdict is None else float(verdict) for name, verdict in verdicts.items()}


def _not(verdict: Known) -> Known:
    return None if verdict is None else not verdict


def _both(verdict: Known, other: Known) -> Known:
    if verdict is False or other is False:
        return False
    return None if verdict is None or other is None else True
