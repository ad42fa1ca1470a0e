"""What the form of an answer must be to have a style."""

from __future__ import annotations

from dataclasses import dataclass

from preftilt.demo.world.writing import MANY_COUNT, SHORT_COUNT, SHORT_WORDS


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The form of an answer, one entry for each thing it recommends.

    ``markers`` are the list markers ("- ", "1. " or empty), ``reasons`` whether a reason is given.
    """

    text: str
    markers: tuple[str, ...]
    reasons: tuple[bool, ...]
    starts_at_once: bool
    ends_in_talk: bool


def has_style(style: str, form: AnswerForm) -> bool:
    """Whether an answer of this form has the style; ``KeyError`` if there is no such style."""
    count = len(form.markers)
    numbered = [marker[:1].isdigit() for marker in form.markers]
    dashed = [marker.startswith("-") for marker in form.markers]
    tests = {
        "short": count <= SHORT_COUNT and len(form.text.split()) <= SHORT_WORDS,
        "many": count >= MANY_COUNT,
        "three": count == 3,
        "numbered": all(numbered),
        "bullets": all(dashed),
        "no lists": not any(form.markers),
        "one paragraph": "\n" not in form.text,
        "reasons": all(form.reasons),
        "no reasons": not any(form.reasons),
        "no questions": "?" not in form.text,
        "no exclamation": "!" not in form.text,
        "direct": form.starts_at_once,
        "kind ending": form.ends_in_talk,
    }
    return tests[style]
