"""When a search step has ended; one rule for every engine that draws tokens itself."""

from __future__ import annotations


def step_ended(text: str, delimiter: str) -> bool:
    """Whether the step's text so far completes ``delimiter`` after its first visible character.

    Text is the concatenated display text of the step's tokens, so a delimiter may span two of them.
    """
    return delimiter in text.lstrip()
