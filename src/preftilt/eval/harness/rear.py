"""The settings of REAR's own experiments, which are the same in all of its benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preftilt.eval.harness.method import BenchmarkProtocol, Json

TREES = {"subtrees": 4, "width": 4}

LINE_SEARCHES: Mapping[str, Json] = {
    "best-of-n": {"n": 16},
    "dvts": {**TREES, "delimiter": "\n"},
}
"""Each search's own settings where a step of a tree search is a line."""


def rear_protocol(
    preset: str, *, max_tokens: int, method: dict[str, Any] | None = None
) -> BenchmarkProtocol:
    """``rear-paper``: sum, steps of one line. ``rear-official``: mean, steps of a paragraph, at most 40 of them.

    Source: REAR (arXiv 2606.30339), appendices C to E, and the defaults of its published code. ``rear-official``
    samples as that code's server does by its model's defaults, for Qwen2.5 (top-p 0.8, top-k 20); their repetition
    penalty of 1.05 is not one of preftilt's settings and is left out. method: how the answer is picked, if not by
    REAR's score.
    """
    common: dict[str, Any] = {
        "lambda": 20.0,
        "gamma": 1.0,
        "temperature": 1.0,
        "max_tokens": max_tokens,
        **({} if method is None else {"method": method}),
    }
    if preset == "rear-official":
        return BenchmarkProtocol(
            settings={**common, "reduction": "mean", "top_p": 0.8, "top_k": 20},
            searches={
                "best-of-n": {"n": 16},
                "dvts": {**TREES, "delimiter": "\n\n", "max_steps": 40},
            },
        )
    return BenchmarkProtocol(
        settings={**common, "reduction": "sum", "top_p": 1.0, "top_k": 0},
        searches=LINE_SEARCHES,
    )
