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
                _value(one, length, of)
                for one, length in zip(values_of(record, rule), record["lengths"], strict=True)
            ]
            for record in self.records
        ]


def report(found: StudyRecords, study: Study, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the Markdown and the picture show; ``about`` says what was read, and by which model."""
    users = users_of(found.items)
    pairs = sum(len(one.rejected) for one in found.items)
    return {
        "schema": SCHEMA,
        **about,
        "comparisons": len(found.items),
        "pairs": pairs,
        "users": len(users),
        "modes": list(study.modes),
        "seed": study.seed,
        "rules": [_row(found, rule, study, users) for rule in study.rules],
        "sweep": [
            {"lambda": lam} | _accuracies(found, RearRule(lam).name, study, users)
            for lam in study.lambdas
        ],
        "tau": _taus(found, study, users),
        "groups": _groups(found, study),
    }


def users_table(found: StudyRecords, study: Study) -> str:
    """A line a user, as CSV: their groups, and the accuracy of every rule in its own mode."""
    users = users_of(found.items)
    ranked = {
        rule.name: rank(found.values(rule.name, own_mode(rule, study)), users)
        for rule in study.rules
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "group", "pairs", *ranked])
    for number, (user, places) in enumerate(users.items()):
        group = ";".join(dict.fromkeys(found.items[place].group for place in places))
        pairs = sum(len(found.items[place].rejected) for place in places)
        shares = [
            f"{one.hits[number] / one.pairs[number]:.4f}" if one.pairs[number] else ""
            for one in ranked.values()
        ]
        writer.writerow([user, group, pairs, *shares])
    return text.getvalue()


def own_mode(rule: Rule, study: Study) -> Mode:
    """The mode a method goes by, or the first that was measured where that one was not."""
    return rule.mode if rule.mode in study.modes else study.modes[0]


def _value(one: RuleValue, length: int, of: str) -> float | None:
    if of == "mean":
        return None if one.unnormalised is None or one.whole else one.unnormalised / length
    return getattr(one, of)


def _row(
    found: StudyRecords, rule: Rule, study: Study, users: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    reward = rank(found.values(rule.name, "reward"), users)
    records = [values_of(record, rule.name) for record in found.records]
    inside = [one.inside for record in records for one in record if one.inside is not None]
    tokens = sum(length for record in found.records for length in record["lengths"])
    used = [record["examples"].get(rule.name) for record in found.records]
    examples = [one for one in used if one is not None]
    return {
        "rule": rule.name,
        "mode": own_mode(rule, study),
        **_accuracies(found, rule.name, study, users),
        "reward_accuracy": _accuracy(reward, study.seed),
        "coverage": sum(inside) / tokens if inside else None,
        "examples": sum(examples) / len(examples) if examples else None,
    }


def _accuracies(
    found: StudyRecords, rule: str, study: Study, users: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    accuracy: dict[str, Any] = {}
    top: dict[str, Any] = {}
    for mode in study.modes:
        values = found.values(rule, mode)
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
    found: StudyRecords, study: Study, users: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """Kendall's τ-b between the accuracy of what a method steers by and that of the method, by mode."""
    taus: dict[str, dict[str, Any]] = {}
    for mode in ("own", *study.modes):
        names: list[str] = []
        sides: list[tuple[PairRanking, PairRanking]] = []
        for rule in study.rules:
            reward = rank(found.values(rule.name, "reward"), users)
            of = own_mode(rule, study) if mode == "own" else mode
            policy = rank(found.values(rule.name, of), users)
            if reward.scored and policy.scored:
                names.append(rule.name)
                sides.append((reward, policy))
        if len(names) < FEWEST_METHODS:
            why = f"{len(names)} methods have both accuracies; {FEWEST_METHODS} are needed"
            taus[mode] = {"refused": why, "methods": names}
            continue
        tau = tau_interval([one for one, _ in sides], [one for _, one in sides], study.seed)
        taus[mode] = asdict(tau) | {"methods": names}
    return taus


def _groups(found: StudyRecords, study: Study) -> dict[str, dict[str, Any]]:
    """The rules' accuracies in their own modes, group by group; nothing if there is one group."""
    names = dict.fromkeys(one.group for one in found.items)
    if len(names) == 1:
        return {}
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        places = [i for i, one in enumerate(found.items) if one.group == name]
        part = StudyRecords([found.items[i] for i in places], [found.records[i] for i in places])
        users = users_of(part.items)
        table[name] = {
            rule.name: _accuracy(
                rank(part.values(rule.name, own_mode(rule, study)), users), study.seed
            )
            for rule in study.rules
        }
    return table
