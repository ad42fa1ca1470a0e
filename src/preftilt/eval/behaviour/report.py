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
    records: StudyRecords


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
            _row(records, method, metrics, users, about, by_rule.get(method.name))
            for method in methods
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
    answers = [record["methods"][method.name] for record in records]
    used = [answer["examples"] for answer in answers if answer["examples"] is not None]
    own = _scores(records, method.name, metrics)
    other = _scores(records, about["reference"], metrics)
    return {
        "method": method.name,
        "told": method.evidence,
        "scores": {metric: _mean(own[metric], users, about["seed"]) for metric in metrics},
        "beyond_reference": None
        if method.name == about["reference"]
        else {
            metric: _mean(own[metric] - other[metric], users, about["seed"]) for metric in metrics
        },
        "tokens": float(np.mean([answer["tokens"] for answer in answers])),
        "finished": float(np.mean([answer["finished"] for answer in answers])),
        "examples": float(np.mean(used)) if used else None,
        "mode": rule["mode"] if rule else None,
        "policy_accuracy": rule["accuracy"][rule["mode"]] if rule else None,
        "reward_accuracy": rule["reward_accuracy"] if rule else None,
    }


def _scores(
    records: Sequence[Mapping[str, Any]], method: str, metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """Every question's scores, by metric."""
    rows = [record["methods"][method]["scores"] for record in records]
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
    values = discrimination.records.values
    accuracy = [rank(values(method.name, modes[method.name]), users) for method in methods]
    return {
        metric: asdict(
            tau_interval(
                accuracy,
                [
                    _by_user(_scores(records, method.name, metrics)[metric], users)
                    for method in methods
                ],
                seed,
            )
        )
        for metric in metrics
    }
