"""A report's numbers from records: every method's scores, differences from the reference, and what goes with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from preftilt.eval.accuracy.metrics import FEWEST_METHODS, PairRanking, rank, tau_interval
from preftilt.eval.accuracy.pairs import Comparison, users_of
from preftilt.eval.accuracy.report import StudyRecords
from preftilt.eval.behaviour.methods import AnswerMethod
from preftilt.eval.behaviour.rouge import settings
from preftilt.eval.bootstrap import ratio_interval

SCHEMA = "preftilt.behaviour-report/1"

Users = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Discrimination:
    """The policy accuracies of the methods' rules on the same questions: the report's rows, and the records."""

    rules: Sequence[Mapping[str, Any]]
    found: StudyRecords


def report(
    questions: Sequence[Comparison],
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[AnswerMethod],
    discrimination: Discrimination | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the Markdown and the picture show."""
    users = users_of(questions)
    metrics = list(records[0]["methods"][methods[0].name]["scores"])
    by_rule = {row["rule"]: row for row in discrimination.rules} if discrimination else {}
    return {
        "schema": SCHEMA,
        **about,
        "questions": len(questions),
        "users": len(users),
        "rouge": settings(),
        "metrics": metrics,
        "methods": [
            _row(records, one, metrics, users, about, by_rule.get(one.name)) for one in methods
        ],
        "tau": _taus(records, methods, metrics, users, discrimination, about["seed"]),
    }


def _row(
    records: Sequence[Mapping[str, Any]],
    method: AnswerMethod,
    metrics: Sequence[str],
    users: Users,
    about: Mapping[str, Any],
    rule: Mapping[str, Any] | None,
) -> dict[str, Any]:
    answers = [one["methods"][method.name] for one in records]
    used = [one["examples"] for one in answers if one["examples"] is not None]
    own = _scores(records, method.name, metrics)
    other = _scores(records, about["reference"], metrics)
    return {
        "method": method.name,
        "told": method.evidence,
        "scores": {one: _mean(own[one], users, about["seed"]) for one in metrics},
        "beyond_reference": None
        if method.name == about["reference"]
        else {one: _mean(own[one] - other[one], users, about["seed"]) for one in metrics},
        "tokens": float(np.mean([one["tokens"] for one in answers])),
        "finished": float(np.mean([one["finished"] for one in answers])),
        "examples": float(np.mean(used)) if used else None,
        "mode": rule["mode"] if rule else None,
        "policy_accuracy": rule["accuracy"][rule["mode"]] if rule else None,
        "reward_accuracy": rule["reward_accuracy"] if rule else None,
    }


def _scores(
    records: Sequence[Mapping[str, Any]], method: str, metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Every question's scores, by metric."""
    rows = [one["methods"][method]["scores"] for one in records]
    return {metric: np.array([row[metric] for row in rows], dtype=float) for metric in metrics}


def _mean(values: np.ndarray, users: Users, seed: int) -> dict[str, Any]:
    """The mean over questions, its interval by the bootstrap over users."""
    summed = _by_user(values, users)
    return asdict(ratio_interval(summed.hits, summed.pairs, seed))


def _by_user(values: np.ndarray, users: Users) -> PairRanking:
    hits = np.array([values[list(places)].sum() for places in users.values()])
    counts = np.array([float(len(places)) for places in users.values()])
    return PairRanking(hits, counts, 0, 0, None)


def _taus(
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[AnswerMethod],
    metrics: Sequence[str],
    users: Users,
    discrimination: Discrimination | None,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Kendall's τ-b over methods between policy accuracy and every score of what they generate."""
    if discrimination is None or len(methods) < FEWEST_METHODS:
        return {}
    modes = {row["rule"]: row["mode"] for row in discrimination.rules}
    values = discrimination.found.values
    accuracy = [rank(values(one.name, modes[one.name]), users) for one in methods]
    return {
        metric: asdict(
            tau_interval(
                accuracy,
                [_by_user(_scores(records, one.name, metrics)[metric], users) for one in methods],
                seed,
            )
        )
        for metric in metrics
    }
