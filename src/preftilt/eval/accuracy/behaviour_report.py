"""Behaviour's numbers from records, and the report for people: Markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from preftilt.errors import MissingPackage
from preftilt.eval.accuracy.comparisons import Comparison, users_of
from preftilt.eval.accuracy.report import GAP, StudyRecords, name_points
from preftilt.eval.accuracy.rules import ViewRule
from preftilt.eval.report import Block, Heading, Picture, Table, Text, percent, with_interval
from preftilt.eval.report import markdown as document
from preftilt.eval.stats import FEWEST_METHODS, PairRanking, rank, tau_interval
from preftilt.plots.style import BLUE, INK, QUIET, VERMILION, Label, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    methods: Sequence[ViewRule],
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
    method: ViewRule,
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
    return asdict(_by_user(values, users).interval(seed))


def _by_user(values: np.ndarray, users: Users) -> PairRanking:
    hits = np.array([values[list(places)].sum() for places in users.values()])
    counts = np.array([float(len(places)) for places in users.values()])
    return PairRanking(hits, counts, 0, 0, None)


def _taus(
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[ViewRule],
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


EVIDENCE = {"none": "nothing", "stated": "the stated preference", "examples": "past examples"}


def markdown(report: Mapping[str, Any], command: str, picture: str | None) -> str:
    """The report for people; ``picture`` is a file beside it."""
    return document(
        [
            *_head(report, command),
            *([Picture(picture, "What the methods generate")] if picture else []),
            Heading("What the methods generate"),
            _generation_table(report),
            *_beside_section(report),
        ]
    )


def _head(report: Mapping[str, Any], command: str) -> list[Block]:
    drawn, rouge = report["drawing"], report["rouge"]
    sampling = drawn["sampling"]
    return [
        Heading("Behaviour against the user's own words", 1),
        Text(
            f"Made by `{command}`. Model: {report['model']}. {report['questions']} questions of"
            f" {report['users']} users."
        ),
        Text(
            f"Best-of-N draws {drawn['n']} at temperature {sampling['temperature']:g}, top-p {sampling['top_p']:g}, and"
            f" adds up by {drawn['reduction']}; all else is greedy. At most {drawn['max_tokens']} tokens an answer;"
            f" seed {drawn['seed']}. In-context examples are the user's last K, oldest first, as exchanges before the"
            " question, whole or not at all."
        ),
        Text(
            f"ROUGE: {rouge['library']}, {rouge['measure']}, {rouge['stemmer']} stemmer, tokens as"
            f" {rouge['tokenizer']}; cut: {rouge['cut']}. 100 × the mean over questions, with 95 % bootstrap intervals"
            f" over users. Δ: the paired difference from `{report['reference']}`; bold where the interval leaves 0 out"
            " (none corrected for their number)."
        ),
    ]


def _generation_table(report: Mapping[str, Any]) -> Table:
    metrics = report["metrics"]
    names = [METRICS.get(metric) or metric for metric in metrics]
    rows = []
    for row in report["methods"]:
        evidence = EVIDENCE[row["told"]]
        if row["examples"] is not None:
            evidence = f"{row['examples']:.1f} past examples"
        beyond = row["beyond_reference"]
        rows.append(
            [
                f"`{row['method']}`",
                evidence,
                *(percent(row["scores"][metric]) for metric in metrics),
                *("–" if beyond is None else _difference(beyond[metric]) for metric in metrics),
                f"{row['tokens']:.0f}",
            ]
        )
    return Table(["method", "told", *names, *(f"Δ {name}" for name in names), "tokens"], rows)


def _beside_section(report: Mapping[str, Any]) -> list[Block]:
    """Discrimination and generation side by side, where the questions are pairs."""
    shown = [metric for metric in report["metrics"] if metric not in ("rouge1", "rouge2")]
    rows = [
        [
            f"`{row['method']}`",
            percent(row["reward_accuracy"]),
            f"{percent(row['policy_accuracy'])} ({row['mode']})",
            *(percent(row["scores"][metric]) for metric in shown),
        ]
        for row in report["methods"]
        if row["policy_accuracy"]
    ]
    if not rows:
        return []
    names = [METRICS.get(metric) or metric for metric in shown]
    taus = [
        f"- {METRICS.get(metric, metric)}: has no value: all methods came out the same on one side."
        if tau["value"] is None
        else f"- {METRICS.get(metric, metric)}: τ = {with_interval(tau, '.2f')}."
        for metric, tau in report["tau"].items()
    ]
    said = "Kendall's τ-b over methods between policy accuracy and generation, with its 95 % interval over users:"
    return [
        Heading("Discrimination beside generation"),
        Text(
            "On the same questions: the share of pairs (what the user wrote, a response that violates their taste) that"
            " the method's score ranks rightly, in its own mode, and what the method generates."
        ),
        Table(["method", "reward accuracy", "policy accuracy", *names], rows),
        *([Text(said), Text("\n".join(taus))] if taus else []),
    ]


def _difference(interval: Mapping[str, float]) -> str:
    text = with_interval(interval, "+.1f", 100)
    return f"**{text}**" if interval["low"] > 0 or interval["high"] < 0 else text


LOOKS = {"rouge1": (BLUE, "o"), "rouge2": ("0.45", "s"), "rougeL": (VERMILION, "^")}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """One panel, or two where discrimination was measured."""
    rows = report["methods"]
    both = [row for row in rows if row["policy_accuracy"]]
    panels = 2 if both else 1
    with picture(path, width=4.9 * panels, height=1.6 + 0.35 * max(len(rows), 6)) as figure:
        _draw_scores(figure.add_subplot(1, panels, 1), rows)
        if both:
            _draw_beside(figure.add_subplot(1, panels, 2), both, report)


def _draw_scores(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for offset, (metric, name) in zip((-0.18, 0.0, 0.18), METRICS.items(), strict=True):
        colour, marker = LOOKS[metric]
        intervals = [row["scores"][metric] for row in rows]
        x = [100 * interval["mean"] for interval in intervals]
        across = [
            [100 * (interval["mean"] - interval["low"]) for interval in intervals],
            [100 * (interval["high"] - interval["mean"]) for interval in intervals],
        ]
        y = [place + offset for place in range(len(rows))]
        axes.errorbar(
            x, y, xerr=across, fmt=marker, color=colour, ecolor="0.7", markersize=4, label=name
        )
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("F1 with the user's own words (%)")
    axes.legend(loc="best")


def _draw_beside(axes: Axes, rows: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
    labels: list[Label] = []
    for row in rows:
        x, y = 100 * row["policy_accuracy"]["mean"], 100 * row["scores"]["rougeL"]["mean"]
        axes.plot(x, y, "o", color=BLUE, markersize=4)
        labels.append(Label(row["method"], x, y, INK, gap=GAP))
    axes.margins(x=0.1, y=0.12)
    axes.axvline(50, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xlabel("policy accuracy (%)")
    axes.set_ylabel("ROUGE-L F1 (%)")
    tau = report["tau"].get("rougeL", {})
    if tau.get("value") is not None:
        axes.set_title(f"τ-b = {with_interval(tau, '.2f')}", pad=8)
    name_points(axes, labels)
