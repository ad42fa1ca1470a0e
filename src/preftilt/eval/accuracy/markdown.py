"""A report's numbers as Markdown for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preftilt.eval.harness.cells import cell, percent

WORDS = {"own": "each method's own mode"}


def markdown(report: Mapping[str, Any], command: str, picture: str | None) -> str:
    """The report for people; ``picture`` is a file beside it."""
    parts = [
        *_head(report, command),
        *(
            [f"![Accuracy over λ, and policy accuracy beside reward accuracy]({picture})", ""]
            if picture
            else []
        ),
        "## Rules",
        "",
        *_rules(report),
        "",
        *_sweep(report),
        *_taus(report),
        *_groups(report),
    ]
    return "\n".join(parts)


def _head(report: Mapping[str, Any], command: str) -> list[str]:
    left_out = "; ".join(f"{count} left out ({why})" for why, count in report["left_out"].items())
    return [
        "# Policy accuracy",
        "",
        f"Made by `{command}`. Model: {report['model']}. {report['comparisons']} comparisons with"
        f" {report['pairs']} pairs, of {report['users']} users"
        + (f"; {left_out}." if left_out else "."),
        "",
        "*Accuracy*: the share of pairs whose preferred response has the higher F; ties count one half; percent, with"
        f" 95 % bootstrap intervals over users (seed {report['seed']}). F is a rule's score of the whole response,"
        " teacher-forced: *unnormalised* sums the rule's token scores, *policy* their log-softmax over the vocabulary,"
        " and *mean* divides the first by the number of tokens. *Reward*: the accuracy of what the rule steers by,"
        " taken alone. In **bold**, the mode that the method itself goes by.",
        "",
        *[f"{note}\n" for note in report["notes"]],
    ]


def _rules(report: Mapping[str, Any]) -> list[str]:
    modes = report["modes"]
    tops = [mode for mode in modes if any(row["top_one"] for row in report["rules"])]
    covered = any(row["coverage"] is not None for row in report["rules"])
    header = ["rule", *modes, "reward", *(f"top-1, {mode}" for mode in tops)]
    header += ["tokens inside"] if covered else []
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in report["rules"]:
        cells = [f"`{row['rule']}`"]
        for mode in modes:
            text = percent(row["accuracy"][mode])
            cells.append(f"**{text}**" if mode == row["mode"] and text != "–" else text)
        cells.append(percent(row["reward_accuracy"]))
        cells += [percent((row["top_one"] or {}).get(mode)) for mode in tops]
        if covered:
            cells.append("–" if row["coverage"] is None else f"{100 * row['coverage']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *_small_print(report)]


def _small_print(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for row in report["rules"]:
        own = row["accuracy"][row["mode"]] or {}
        remarks = []
        if own.get("ties"):
            remarks.append(f"{own['ties']} ties")
        if own.get("unscored"):
            remarks.append(f"{own['unscored']} pairs without a score")
        if row["examples"] is not None:
            remarks.append(f"{row['examples']:.1f} examples in the prompt on average")
        if remarks:
            lines.append(f"- `{row['rule']}`: {', '.join(remarks)}.")
    return [*lines, ""] if lines else []


def _sweep(report: Mapping[str, Any]) -> list[str]:
    if not report["sweep"]:
        return []
    modes = report["modes"]
    lines = ["| λ | " + " | ".join(modes) + " |", "|---|" + "---|" * len(modes)]
    for row in report["sweep"]:
        cells = " | ".join(percent(row["accuracy"][mode]) for mode in modes)
        lines.append(f"| {row['lambda']:g} | {cells} |")
    return ["## REAR over λ, from one scoring pass", "", *lines, ""]


def _taus(report: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Does the reward's accuracy tell the method's?",
        "",
        "Kendall's τ-b between the two over methods, with its 95 % interval over users.",
        "",
    ]
    for mode, tau in report["tau"].items():
        what = WORDS.get(mode, mode)
        if "refused" in tau:
            lines.append(f"- {what}: not computed; {tau['refused']}.")
        elif tau["value"] is None:
            lines.append(
                f"- {what}: has no value: all methods have one accuracy on one side (they may steer by one reward)."
            )
        else:
            lines.append(
                f"- {what}: τ = {tau['value']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}], {len(tau['methods'])} methods"
                f" ({', '.join(f'`{method}`' for method in tau['methods'])})."
            )
    return [*lines, ""]


def _groups(report: Mapping[str, Any]) -> list[str]:
    if not report["groups"]:
        return []
    names = [row["rule"] for row in report["rules"]]
    lines = [
        "| group | pairs | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for group, row in report["groups"].items():
        pairs = next((interval["n"] for interval in row.values() if interval), 0)
        cells = " | ".join(percent(row[name]) for name in names)
        lines.append(f"| {cell(group)} | {pairs} | {cells} |")
    return ["## Groups", "", *lines, ""]
