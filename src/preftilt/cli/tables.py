"""The ``scores`` table of ``preftilt score``: every response under every λ, by re-weighting what was scored once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from preftilt.errors import BadInput
from preftilt.records.rows import CheckedRow
from preftilt.result import Realigned, ScoredCandidate, number
from preftilt.reward import lines, order
from preftilt.types import ArmTerm, Candidate


def parse_lambdas(texts: Sequence[str]) -> list[float]:
    """``--lambda 1,3 --lambda 20`` as numbers, in order, each once."""
    lambdas: dict[float, None] = {}
    for text in ",".join(texts).split(",") if texts else ():
        try:
            lam = float(text)
        except ValueError:
            raise BadInput(f"--lambda {text!r} is not a number") from None
        if not math.isfinite(lam):
            raise BadInput(f"--lambda must be finite, not {text.strip()}")
        lambdas[lam] = None
    return list(lambdas)


def score_table(result: Realigned, item: CheckedRow, more: Sequence[float]) -> dict[str, Any]:
    """``scores``: for every λ, the candidates' scores in their order, and the index of the best.

    A preference with its own strength keeps it under every λ, and so do reward models.
    """
    rows: list[dict[str, Any]] = []
    own = item.settings.strength if item.preferred else result.lam
    arms = tuple(ArmTerm(view.weight, 0.0) for view in result.views if view.arm is not None)
    for lam in dict.fromkeys([own, *more]):
        scores = _scores(result.candidates, lam, item, arms)
        cut_off = [candidate.cut_off for candidate in result.candidates]
        best = order(scores, cut_off, item.settings.reward.cut_off)[0]
        rows.append(
            {"lambda": lam, "candidate": best, "scores": [number(score) for score in scores]}
        )
    return {"scores": rows}


def _scores(
    scored: Sequence[ScoredCandidate], lam: float, item: CheckedRow, arms: tuple[ArmTerm, ...]
) -> list[float]:
    """S at λ; the strengths stand in for the ratios, so that λ = 0 needs no division."""
    strengths = tuple(lam if p.strength is None else p.strength for p in item.preferences)
    if item.preferred and not strengths:
        strengths = (lam,)
    pool = [
        Candidate(
            response.tokens,
            np.stack(list(response.logprobs.values())),
            response.finish,
            thoughts=response.thoughts,
        )
        for response in scored
    ]
    return [line.at(1.0) for line in lines(pool, strengths, item.settings.reward, arms)]
