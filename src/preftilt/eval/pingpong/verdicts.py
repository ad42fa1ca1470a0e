"""From a judge's JSON to ratings, and from ratings to a dialogue's numbers; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preftilt.eval.pingpong.dialogue import cut_json
from preftilt.eval.pingpong.protocol import Refusals

SCALES = ("in_character", "entertaining", "fluency")
VALUES = (*SCALES, "score", "refused")
"""What a dialogue is scored with: the mean over its turns of each scale from 1 to 5, their mean, and whether the judge
saw a refusal in any turn."""


@dataclass(frozen=True, slots=True)
class TurnRatings:
    """The ratings of one message, by scale, and whether it is a refusal."""

    ratings: tuple[float, ...]
    refusal: bool


def reader(turns: int) -> Callable[[str], tuple[TurnRatings, ...] | None]:
    """A parser of judgements of ``turns`` turns; it gives None unless all are there, with numbers from 1 to 5."""

    def read(text: str) -> tuple[TurnRatings, ...] | None:
        judgement = cut_json(text)
        entries = judgement.get("scores") if isinstance(judgement, dict) else None
        if not isinstance(entries, list) or len(entries) != turns:
            return None
        rated = [_turn(entry) for entry in entries]
        whole = [turn for turn in rated if turn is not None]
        return tuple(whole) if len(whole) == turns else None

    return read


def rate(rated: Sequence[TurnRatings] | None, refusals: Refusals) -> dict[str, float | None]:
    """A dialogue's numbers by the names of :data:`VALUES`; all None where there is no judgement."""
    if rated is None:
        return dict.fromkeys(VALUES)
    refused = any(turn.refusal for turn in rated)
    if refused and refusals == "excluded":
        return dict.fromkeys(VALUES) | {"refused": 1.0}
    means = [sum(turn.ratings[i] for turn in rated) / len(rated) for i in range(len(SCALES))]
    numbers: dict[str, float | None] = dict(zip(SCALES, means, strict=True))
    return numbers | {"score": sum(means) / len(means), "refused": float(refused)}


def _turn(entry: object) -> TurnRatings | None:
    if not isinstance(entry, dict):
        return None
    values = [_rating(entry.get(f"{scale}_score")) for scale in SCALES]
    ratings = tuple(value for value in values if value is not None)
    if len(ratings) < len(SCALES):
        return None
    return TurnRatings(ratings, entry.get("is_refusal") is True)


def _rating(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 1 <= value <= 5 else None
