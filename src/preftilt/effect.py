"""What λ did to a choice: how much of it λ made, how far the views differ, and when that is worth a note.

Everything here is a function of what a record holds anyway: the candidates' lines, the answer's per-token gains and the
λ-path. Nothing is asked of a model again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.path import PathSegment
from preftilt.reward import ScoreLine


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteThresholds:
    """From where on an effect is worth a note.

    agree: the views agree where they differ by less than this, in nats a token of the answer, and no few tokens stand
    out; a system message that says nothing of consequence moves the tokens of SmolLM2-135M by 0.07. few, most, long,
    strong: few tokens stand out where, of an answer's ``long`` or more, ``few`` or fewer carry over ``most`` of
    Σ_t |gain_t|, and one of them has a gain of ``strong`` nats or more.
    """

    agree: float = 0.1
    few: int = 3
    most: float = 0.5
    long: int = 12
    strong: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthEffect:
    """What λ and the preference did to a choice.

    share: how much of the spread of the candidates' scores λ makes, 0 to 1. A score is S = p + (λ − 1) d, with p that
    of the model as it is (λ = 1) and d the preference gain; the share is Var((λ − 1) d) / (Var(p) + Var((λ − 1) d))
    over the candidates that can win. None for fewer than two of them, or where they do not differ.
    difference: mean of |gain_t| over the answer's tokens, in nats: for one preference the mean of |p_t − q_t|.
    agrees: whether that is so little that the preference changes nothing here.
    same_from: the λ from which on the answer stays the same among these candidates, where λ is at or beyond it; None
    where it is not, and where λ does not decide among candidates that are there whatever it is.
    carriers: the places, among the answer's tokens, of the few that carry most of the gain, the strongest first; none
        if it takes more.
    carried: their share of Σ_t |gain_t|.
    """

    share: float | None
    difference: float
    agrees: bool
    same_from: float | None
    carriers: tuple[int, ...]
    carried: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"carriers": list(self.carriers)}


def strength_effect(
    lines: Sequence[ScoreLine],
    gains: Float[np.ndarray, "T"],
    path: Sequence[PathSegment],
    lam: float,
    thresholds: NoteThresholds,
) -> StrengthEffect:
    """The effect of ``lam`` on the choice among candidates with these ``lines``.

    ``gains`` are the per-token gains of the answer (nats), without its thoughts; ``path`` is the λ-path, or empty
    where what it tells is not what was chosen by.
    """
    sizes = np.abs(gains[np.isfinite(gains)])
    difference = float(sizes.mean()) if sizes.size else 0.0
    carriers, carried = _carriers(gains, thresholds)
    decides = bool(path) and len({line for line in lines if math.isfinite(line.at(lam))}) > 1
    return StrengthEffect(
        share=share_of_lambda(lines, lam),
        difference=difference,
        agrees=bool(sizes.size) and difference < thresholds.agree and not carriers,
        same_from=path[-1].start if decides and lam >= path[-1].start else None,
        carriers=carriers,
        carried=carried,
    )


def share_of_lambda(lines: Sequence[ScoreLine], lam: float) -> float | None:
    """:attr:`StrengthEffect.share`."""
    able = [line for line in lines if math.isfinite(line.at(lam))]
    if len(able) < 2:
        return None
    plain = float(np.var([line.at(1.0) for line in able]))
    tilt = float(np.var([(lam - 1.0) * line.preference_gain for line in able]))
    return tilt / (plain + tilt) if plain + tilt > 0 else None


def _carriers(
    gains: Float[np.ndarray, "T"], thresholds: NoteThresholds
) -> tuple[tuple[int, ...], float]:
    """The fewest tokens that carry most of Σ|gain|, if they are few of many, and their share of it."""
    sizes = np.where(np.isfinite(gains), np.abs(gains), 0.0)
    if len(sizes) < thresholds.long or sizes.max() < thresholds.strong:
        return (), 0.0
    strongest = np.argsort(-sizes, kind="stable")[: thresholds.few]
    shares = np.cumsum(sizes[strongest]) / sizes.sum()
    enough = np.flatnonzero(shares > thresholds.most)
    if not enough.size:
        return (), 0.0
    count = int(enough[0]) + 1
    return tuple(map(int, strongest[:count])), float(shares[count - 1])


def effect_notes(effect: StrengthEffect, lam: float, pieces: Sequence[str]) -> list[str]:
    """What a reader should know of an effect; ``pieces`` are the texts of the answer's tokens."""
    if effect.agrees:
        return [
            f"this preference changes nothing here: it moves the answer's tokens by {effect.difference:.2g} nats each,"
            " no more than any other words in the prompt would; a large λ then chooses by chance"
        ]
    notes: list[str] = []
    if effect.same_from is not None:
        notes.append(
            f"the answer is the same for every λ from {effect.same_from:.3g} on: among these candidates a larger one"
            " changes nothing"
        )
    if effect.carriers:
        named = ", ".join(f"“{_shown(pieces[place])}”" for place in effect.carriers)
        notes.append(
            f"{len(effect.carriers)} of {len(pieces)} tokens of the answer at λ = {lam:g} carry {effect.carried:.0%} of"
            f" its gain: {named}"
        )
    return notes


def _shown(piece: str) -> str:
    """A token's text without outer spaces, and with nothing that a terminal would obey."""
    visible = piece.strip(" ")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in visible) or piece
