"""A report's numbers from records: accuracies, the sweep over λ, Kendall's τ, and breakdowns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from preftilt.eval.accuracy.metrics import (
    FEWEST_METHODS,
    PairRanking,
    rank,
    tau_interval,
    top_one_interval,
)
from preftilt.eval.accuracy.pairs import Comparison, users_of
from preftilt.eval.accuracy.records import values_of
from preftilt.eval.accuracy.rules import Mode, RearRule, Rule, RuleValue

SCHEMA = "preftilt.policy-accuracy-report/1"

Values = list[list[float | None]]
"""F of every comparison's responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What was measured: the rules of the table, REAR's λ of the sweep, the modes, and the bootstrap's seed."""

    rules: tuple[Rule, ...]
    lambdas: tuple[float, ...]
    modes: tuple[Mode, ...]
    seed: int = 0

    @property
    def measured(self) -> tuple[Rule, ...]:
        """Every rule that has to be measured, each once."""
        every = {rule.name: rule for rule in (*self.rules, *map(RearRule, self.lambdas))}
        return tuple(every.values())


@dataclass(frozen=True, slots=True)
class StudyRecords:
    """The records of a study's comparisons, in their order."""

    items: Sequence[Comparison]
    records: Sequence[Mapping[str, Any]]

    def values(self, rule: str, of: str) -> Values:
        """F in a mode, or the ``reward``."""
        return [
            [
                _value(value, length, of)
                for value, length in zip(values_of(record, rule), record["lengths"], strict=True)
            ]
            for record in self.records
        ]


def report(results: StudyRecords, study: Study, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the Markdown and the picture show; ``about`` says what was read, and by which model."""
    users = users_of(results.items)
    pairs = sum(len(item.rejected) for item in results.items)
    return {
        "schema": SCHEMA,
        **about,
        "comparisons": len(results.items),
        "pairs": pairs,
        "users": len(users),
        "modes": list(study.modes),
        "seed": study.seed,
        "rules": [_row(results, rule, study, users) for rule in study.rules],
        "sweep": [
            {"lambda": lam} | _accuracies(results, RearRule(lam).name, study, users)
            for lam in study.lambdas
        ],
        "tau": _taus(results, study, users),
        "groups": _groups(results, study),
    }


def users_table(results: StudyRecords, study: Study) -> str:
    """A line a user, as CSV: their groups, and the accuracy of every rule in its own mode."""
    users = users_of(results.items)
    ranked = {
        rule.name: rank(results.values(rule.name, own_mode(rule, study)), users)
        for rule in study.rules
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "group", "pairs", *ranked])
    for number, (user, places) in enumerate(users.items()):
        group = ";".join(dict.fromkeys(results.items[place].group for place in places))
        pairs = sum(len(results.items[place].rejected) for place in places)
        shares = [
            f"{ranking.hits[number] / ranking.pairs[number]:.4f}" if ranking.pairs[number] else ""
            for ranking in ranked.values()
        ]
        writer.writerow([user, group, pairs, *shares])
    return text.getvalue()


def own_mode(rule: Rule, study: Study) -> Mode:
    """The mode a method goes by, or the first that was measured where that one was not."""
    return rule.mode if rule.mode in study.modes else study.modes[0]


def _value(value: RuleValue, length: int, of: str) -> float | None:
    if of == "mean":
        return None if value.unnormalised is None or value.whole else value.unnormalised / length
    return getattr(value, of)


def _row(
    results: StudyRecords, rule: Rule, study: Study, users: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    reward = rank(results.values(rule.name, "reward"), users)
    records = [values_of(record, rule.name) for record in results.records]
    inside = [value.inside for record in records for value in record if value.inside is not None]
    tokens = sum(length for record in results.records for length in record["lengths"])
    used = [record["examples"].get(rule.name) for record in results.records]
    examples = [count for count in used if count is not None]
    return {
        "rule": rule.name,
        "mode": own_mode(rule, study),
        **_accuracies(results, rule.name, study, users),
        "reward_accuracy": _accuracy(reward, study.seed),
        "coverage": sum(inside) / tokens if inside else None,
        "examples": sum(examples) / len(examples) if examples else None,
    }


def _accuracies(
    results: StudyRecords, rule: str, study: Study, users: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    accuracy: dict[str, Any] = {}
    top: dict[str, Any] = {}
    for mode in study.modes:
        values = results.values(rule, mode)
        accuracy[mode] = _accuracy(rank(values, users), study.seed)
        first = top_one_interval(values, users, study.seed)
        top[mode] = None if first is None else asdict(first)
    return {"accuracy": accuracy, "top_one": top if any(top.values()) else None}


def _accuracy(ranked: PairRanking, seed: int) -> dict[str, Any] | None:
    if not ranked.scored:
        return None
    return asdict(ranked.interval(seed)) | {
        "ties": ranked.ties,
        "unscored": ranked.unscored,
        "margin": ranked.margin,
    }


def _taus(
    results: StudyRecords, study: Study, users: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """Kendall's τ-b between the accuracy of what a method steers by and that of the method, by mode."""
    taus: dict[str, dict[str, Any]] = {}
    for mode in ("own", *study.modes):
        names: list[str] = []
        sides: list[tuple[PairRanking, PairRanking]] = []
        for rule in study.rules:
            reward = rank(results.values(rule.name, "reward"), users)
            of = own_mode(rule, study) if mode == "own" else mode
            policy = rank(results.values(rule.name, of), users)
            if reward.scored and policy.scored:
                names.append(rule.name)
                sides.append((reward, policy))
        if len(names) < FEWEST_METHODS:
            why = f"{len(names)} methods have both accuracies; {FEWEST_METHODS} are needed"
            taus[mode] = {"refused": why, "methods": names}
            continue
        tau = tau_interval(
            [reward for reward, _ in sides], [policy for _, policy in sides], study.seed
        )
        taus[mode] = asdict(tau) | {"methods": names}
    return taus


def _groups(results: StudyRecords, study: Study) -> dict[str, dict[str, Any]]:
    """The rules' accuracies in their own modes, group by group; nothing if there is one group."""
    names = dict.fromkeys(item.group for item in results.items)
    if len(names) == 1:
        return {}
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        places = [i for i, item in enumerate(results.items) if item.group == name]
        part = StudyRecords(
            [results.items[i] for i in places], [results.records[i] for i in places]
        )
        users = users_of(part.items)
        table[name] = {
            rule.name: _accuracy(
                rank(part.values(rule.name, own_mode(rule, study)), users), study.seed
            )
            for rule in study.rules
        }
    return table
