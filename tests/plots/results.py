"""Results written by hand, for pictures and explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preftilt.path import upper_envelope
from preftilt.result import Realigned, ScoredCandidate
from preftilt.reward import ScoreLine, Sums


def result_of(
    lines: Sequence[ScoreLine],
    lam: float = 20.0,
    *,
    tokens: Sequence[int] | None = None,
    **settings: Any,
) -> Realigned:
    """A result whose candidates have these lines; ``tokens`` tell which of them are equal."""
    ids = range(len(lines)) if tokens is None else tokens
    order = sorted(range(len(lines)), key=lambda i: -lines[i].at(lam))
    candidates = tuple(
        scored(rank, lines[i], lam, tokens=(ids[i],)) for rank, i in enumerate(order, start=1)
    )
    path = upper_envelope([lines[i] for i in order], start=min(0.0, lam))
    return realigned(candidates, path=path, **({"lambda": lam} | settings))


def scored(rank: int, line: ScoreLine, lam: float, **changes: Any) -> ScoredCandidate:
    fields: dict[str, Any] = {
        "text": "an answer",
        "tokens": (rank,),
        "finish": "eos",
        "logprobs": {"question": np.array([-1.0]), "full": np.array([-0.5])},
        "gains": np.array([0.5]),
        "sums": Sums(line.question_logprob, line.preference_gain, 1),
    }
    return ScoredCandidate(
        rank=rank,
        slot=rank - 1,
        question_logprob=line.question_logprob,
        preference_gain=line.preference_gain,
        score=line.at(lam),
        **(fields | changes),
    )


def realigned(candidates: tuple[ScoredCandidate, ...], **more: Any) -> Realigned:
    settings = {
        "lambda": 20.0,
        "reduction": "sum",
        "search": {"name": "best-of-n"},
        "preferences": [{"text": "No games.", "strength": 20.0}],
    }
    path, pieces = more.pop("path", ()), more.pop("pieces", ())
    return Realigned(
        id=None,
        text=candidates[0].text,
        model="demo",
        engine="toy",
        seed=0,
        settings=settings | more,
        prompts={},
        candidates=candidates,
        usage={},
        timing={},
        versions={},
        path=path,
        pieces=pieces,
    )


def random_lines(seed: int, count: int) -> list[ScoreLine]:
    """Lines as answers of very different lengths have them: crowded, with a hull of a few."""
    rng = np.random.default_rng(seed)
    length = rng.gamma(8, 5, count)
    gain = rng.normal(0.5, 1, count) * np.sqrt(length) / 3 + 0.05 * length
    question = -0.9 * length - 0.4 * gain + rng.normal(0, 4, count)
    return [ScoreLine(float(q), float(g)) for q, g in zip(question, gain, strict=True)]
