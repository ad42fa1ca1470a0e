"""ROUGE (Lin, 2004) by Google's ``rouge-score``, its settings in one place."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from preftilt.errors import MissingPackage

METRICS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
"""The F-measures, by their names in records."""


def check_rouge() -> None:
    """Raises :class:`~preftilt.errors.MissingPackage` if the library is not there."""
    if find_spec("rouge_score") is None:
        raise MissingPackage('ROUGE needs rouge-score: pip install "preftilt[eval]"')


def rouge(truth: str, answer: str) -> dict[str, float]:
    """The F-measures of ``answer`` against ``truth``, both whole and stripped of outer white space."""
    scores = _scorer().score(truth.strip(), answer.strip())
    return {name: float(scores[name].fmeasure) for name in METRICS}


def settings() -> dict[str, Any]:
    """How it is computed, for the report."""
    return {
        "library": f"rouge-score {version('rouge-score')}",
        "measure": "F1",
        "stemmer": "Porter",
        "tokenizer": "the library's: lower case, runs of a-z and 0-9",
        "cut": "none: texts are compared whole",
    }


@cache
def _scorer() -> Any:
    check_rouge()
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(METRICS), use_stemmer=True)
