"""A report's numbers as Markdown for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preftilt.eval.behaviour.rouge import METRICS
from preftilt.eval.harness.cells import percent

EVIDENCE = {"none": "nothing", "stated": "the stated preference", "examples": "past examples"}


def markdown(report: Mapping[str, Any], command: str, picture: str | None) -> str:
    """The report for people; ``picture`` is a file beside it."""
    shown = f"![What the methods generate]({picture})"
    parts = [
        *_head(report, command),
        *([shown, ""] if picture else []),
        "## What the methods generate",
        "",
        *_generation(report),
        "",
        *_beside(report),
    ]
    return "\n".join(parts)


def _head(report: Mapping[str, Any], command: str) -> list[str]:
    drawn = report["drawing"]
    sampling = drawn["sampling"]
    rouge = report["rouge"]
    return [
        "# Behaviour against the user's own words",
        "",
        f"Made by `{command}`. Model: {report['model']}. {report['questions']} questions of {report['users']} users.",
        "",
        f"Best-of-N draws {drawn['n']} at temperature {sampling['temperature']:g}, top-p {sampling['top_p']:g}, and"
        f" adds up by {drawn['reduction']}; all else is greedy. At most {drawn['max_tokens']} tokens an answer; seed"
        f" {drawn['seed']}. In-context examples are the user's last K, oldest first, as exchanges before the question,"
        " whole or not at all.",
        "",
        f"ROUGE: {rouge['library']}, {rouge['measure']}, {rouge['stemmer']} stemmer, tokens as {rouge['tokenizer']};"
        f" cut: {rouge['cut']}. 100 × the mean over questions, with 95 % bootstrap intervals over users. Δ: the paired"
        f" difference from `{report['reference']}`; bold where the interval leaves 0 out (none corrected for"
        " their number).",
        "",
    ]


def _generation(report: Mapping[str, Any]) -> list[str]:
    metrics = report["metrics"]
    names = [METRICS.get(metric, metric) for metric in metrics]
    header = ["method", "told", *names, *(f"Δ {name}" for name in names), "tokens"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in report["methods"]:
        evidence = EVIDENCE[row["told"]]
        if row["examples"] is not None:
            evidence = f"{row['examples']:.1f} past examples"
        cells = [f"`{row['method']}`", evidence]
        cells += [percent(row["scores"][metric]) for metric in metrics]
        beyond = row["beyond_reference"]
        cells += ["–" if beyond is None else _difference(beyond[metric]) for metric in metrics]
        cells.append(f"{row['tokens']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _beside(report: Mapping[str, Any]) -> list[str]:
    """Discrimination and generation side by side, where the questions are pairs."""
    rows = [row for row in report["methods"] if row["policy_accuracy"]]
    if not rows:
        return []
    shown = [metric for metric in report["metrics"] if metric not in ("rouge1", "rouge2")]
    names = [METRICS.get(metric, metric) for metric in shown]
    header = ["method", "reward accuracy", "policy accuracy", *names]
    lines = [
        "## Discrimination beside generation",
        "",
        "On the same questions: the share of pairs (what the user wrote, a response that violates their taste) that the"
        " method's score ranks rightly, in its own mode, and what the method generates.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
    ]
    for row in rows:
        cells = [f"`{row['method']}`", percent(row["reward_accuracy"])]
        cells += [f"{percent(row['policy_accuracy'])} ({row['mode']})"]
        cells += [percent(row["scores"][metric]) for metric in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *_taus(report)]


def _taus(report: Mapping[str, Any]) -> list[str]:
    if not report["tau"]:
        return []
    lines = [
        "Kendall's τ-b over methods between policy accuracy and generation, with its 95 % interval over users:",
        "",
    ]
    for metric, tau in report["tau"].items():
        name = METRICS.get(metric, metric)
        if tau["value"] is None:
            lines.append(f"- {name}: has no value: all methods came out the same on one side.")
        else:
            lines.append(f"- {name}: τ = {tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}].")
    return [*lines, ""]


def _difference(interval: Mapping[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
