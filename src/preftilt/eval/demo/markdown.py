"""A report's numbers as Markdown for people."""

from __future__ import annotations

from typing import Any


def markdown(report: dict[str, Any], command: str) -> str:
    """The report for people."""
    head = [
        "# The bundled model on its world",
        "",
        f"Made by `{command}`. Models: {', '.join(report['models'])}. Test items:"
        f" {report['items']['test']}; λ chosen on {report['items']['validation']} validation items."
        f" N = {report['n']}, seed {report['seed']}, {_sampling(report)}. Percent, with 95 % bootstrap intervals over"
        " items; several models are averaged item by item.",
        "",
        "*Following* = helpful and not violating the preference, by the world's exact checker. Δ columns are"
        " paired differences in following; bold where the interval leaves 0 out"
        f" ({2 * len(report['rows'])} comparisons, none corrected for their number).",
        "",
        *_table(report),
        "",
        "λ in *italics* was chosen on validation, one per model.",
        "",
        "## Why greedy and chosen answers were not helpful",
        "",
        *_cause_table(report["unhelpful"]),
        "",
        "## Topics and preferences met together in training, or held out",
        "",
        *_combination_table(report["combinations"]),
        "",
    ]
    return "\n".join(head)


def _sampling(report: dict[str, Any]) -> str:
    drawn = report["sampling"]
    nucleus = "" if drawn["top_p"] == 1 else f", top-p {drawn['top_p']:g}"
    return f"temperature {drawn['temperature']:g}{nucleus}"


def _table(report: dict[str, Any]) -> list[str]:
    several = len(report["models"]) > 1
    header = [
        "method",
        "λ",
        "items",
        "following",
        "helpful",
        "violates",
        "tokens",
        "Δ greedy",
        "Δ λ = 1",
    ]
    if several:
        header.append("each model")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in report["rows"]:
        lams = "/".join(f"{lam:g}" for lam in dict.fromkeys(row["lams"]))
        cells = [
            row["name"] + (f", {row['reduction']}" if row["reduction"] else ""),
            f"*{lams}*" if row["tuned"] else lams,
            str(row["following"]["n"]),
            _percent(row["following"]),
            _percent(row["helpful"]),
            _percent(row["violates"]),
            f"{row['length']:.0f}",
            _difference(row["beyond_greedy"]),
            _difference(row["beyond_lambda_one"]),
        ]
        if several:
            cells.append(" / ".join(f"{100 * one:.0f}" for one in row["per_model"]))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cause_table(shares: dict[str, dict[str, float]]) -> list[str]:
    causes = sorted({cause for row in shares.values() for cause in row})
    lines = ["| method | " + " | ".join(causes) + " |", "|---|" + "---|" * len(causes)]
    for name, row in shares.items():
        cells = [f"{100 * row.get(cause, 0):.1f}" for cause in causes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _combination_table(table: dict[str, dict[str, Any]]) -> list[str]:
    names = list(next(iter(table.values())))
    lines = ["| pairs | items | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for kind, row in table.items():
        cells = " | ".join(_percent(row[name]) for name in names)
        lines.append(f"| {kind} | {row[names[0]]['n']} | {cells} |")
    return lines


def _percent(interval: dict[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _difference(interval: dict[str, float]) -> str:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    if low == high == 0:
        return "–"
    text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
