"""Policy accuracy's numbers from records, and the report for people: Markdown and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftilt.eval.accuracy.comparisons import Comparison, users_of
from preftilt.eval.accuracy.measure import values_of
from preftilt.eval.accuracy.rules import Mode, Rule, RuleValue, rear
from preftilt.eval.report import Block, Heading, Picture, Table, Text, percent, with_interval
from preftilt.eval.report import markdown as document
from preftilt.eval.stats import FEWEST_METHODS, PairRanking, rank, tau_interval, top_one_interval
from preftilt.plots.style import BLUE, INK, QUIET, VERMILION, Label, picture, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        every = {rule.name: rule for rule in (*self.rules, *map(rear, self.lambdas))}
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
            {"lambda": lam} | _accuracies(results, rear(lam).name, study, users)
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


WORDS = {"own": "each method's own mode"}


def markdown(report: Mapping[str, Any], command: str, picture: str | None) -> str:
    """The report for people; ``picture`` is a file beside it."""
    shown = "Accuracy over λ, and policy accuracy beside reward accuracy"
    return document(
        [
            *_head(report, command),
            *([Picture(picture, shown)] if picture else []),
            Heading("Rules"),
            *_rules_section(report),
            *_sweep_section(report),
            *_taus_section(report),
            *_groups_section(report),
        ]
    )


def _head(report: Mapping[str, Any], command: str) -> list[Block]:
    left_out = "; ".join(f"{count} left out ({why})" for why, count in report["left_out"].items())
    return [
        Heading("Policy accuracy", 1),
        Text(
            f"Made by `{command}`. Model: {report['model']}. {report['comparisons']} comparisons with"
            f" {report['pairs']} pairs, of {report['users']} users"
            + (f"; {left_out}." if left_out else ".")
        ),
        Text(
            "*Accuracy*: the share of pairs whose preferred response has the higher F; ties count one half; percent,"
            f" with 95 % bootstrap intervals over users (seed {report['seed']}). F is a rule's score of the whole"
            " response, teacher-forced: *unnormalised* sums the rule's token scores, *policy* their log-softmax over"
            " the vocabulary, and *mean* divides the first by the number of tokens. *Reward*: the accuracy of what the"
            " rule steers by, taken alone. In **bold**, the mode that the method itself goes by."
        ),
        *map(Text, report["notes"]),
    ]


def _rules_section(report: Mapping[str, Any]) -> list[Block]:
    modes = report["modes"]
    tops = [mode for mode in modes if any(row["top_one"] for row in report["rules"])]
    covered = any(row["coverage"] is not None for row in report["rules"])
    header = ["rule", *modes, "reward", *(f"top-1, {mode}" for mode in tops)]
    header += ["tokens inside"] if covered else []
    rows, small_print = [], []
    for row in report["rules"]:
        cells = [f"`{row['rule']}`"]
        for mode in modes:
            text = percent(row["accuracy"][mode])
            cells.append(f"**{text}**" if mode == row["mode"] and text != "–" else text)
        cells.append(percent(row["reward_accuracy"]))
        cells += [percent((row["top_one"] or {}).get(mode)) for mode in tops]
        if covered:
            cells.append("–" if row["coverage"] is None else f"{100 * row['coverage']:.1f}")
        rows.append(cells)
        own = row["accuracy"][row["mode"]] or {}
        remarks = [f"{own['ties']} ties"] if own.get("ties") else []
        remarks += [f"{own['unscored']} pairs without a score"] if own.get("unscored") else []
        if row["examples"] is not None:
            remarks.append(f"{row['examples']:.1f} examples in the prompt on average")
        if remarks:
            small_print.append(f"- `{row['rule']}`: {', '.join(remarks)}.")
    return [Table(header, rows), *([Text("\n".join(small_print))] if small_print else [])]


def _sweep_section(report: Mapping[str, Any]) -> list[Block]:
    if not report["sweep"]:
        return []
    modes = report["modes"]
    rows = [
        [f"{row['lambda']:g}", *(percent(row["accuracy"][mode]) for mode in modes)]
        for row in report["sweep"]
    ]
    return [Heading("REAR over λ, from one scoring pass"), Table(["λ", *modes], rows)]


def _taus_section(report: Mapping[str, Any]) -> list[Block]:
    lines = []
    for mode, tau in report["tau"].items():
        names = ", ".join(f"`{method}`" for method in tau["methods"])
        if "refused" in tau:
            said = f"not computed; {tau['refused']}."
        elif tau["value"] is None:
            said = "has no value: all methods have one accuracy on one side (they may steer by one reward)."
        else:
            said = f"τ = {with_interval(tau, '.2f')}, {len(tau['methods'])} methods ({names})."
        lines.append(f"- {WORDS.get(mode, mode)}: {said}")
    return [
        Heading("Does the reward's accuracy tell the method's?"),
        Text("Kendall's τ-b between the two over methods, with its 95 % interval over users."),
        Text("\n".join(lines)),
    ]


def _groups_section(report: Mapping[str, Any]) -> list[Block]:
    if not report["groups"]:
        return []
    names = [row["rule"] for row in report["rules"]]
    rows = [
        [
            group,
            str(next((interval["n"] for interval in row.values() if interval), 0)),
            *(percent(row[name]) for name in names),
        ]
        for group, row in report["groups"].items()
    ]
    return [Heading("Groups"), Table(["group", "pairs", *(f"`{name}`" for name in names)], rows)]


GAP = 15.0
"""Points between a method's mark and its name: names are long, and marks stand close together."""

LOOKS = {
    "unnormalised": (BLUE, "-", "o"),
    "policy": (VERMILION, "--", "^"),
    "mean": ("0.45", ":", "s"),
}


Interval = Mapping[str, float]
MethodPoint = tuple[str, Interval, Interval]
"""A method with the accuracies of its reward and of itself."""


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Both panels, or the one that there is something for."""
    both = [(row["rule"], *pair) for row in report["rules"] if (pair := _both_accuracies(row))]
    panels = [panel for panel, there in (("sweep", _is_curve(report)), ("methods", both)) if there]
    with picture(path, width=4.9 * len(panels), height=4.0) as figure:
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            if panel == "sweep":
                _draw_sweep(axes, report)
            else:
                _draw_methods(axes, both, report)


def can_draw(report: Mapping[str, Any]) -> bool:
    """Whether there is anything to draw."""
    return _is_curve(report) or any(_both_accuracies(row) for row in report["rules"])


def _is_curve(report: Mapping[str, Any]) -> bool:
    """Whether λ was changed at all: a single one makes no curve."""
    return len(report["sweep"]) > 1


def _draw_sweep(axes: Axes, report: Mapping[str, Any]) -> None:
    rows: Sequence[Mapping[str, Any]] = report["sweep"]
    x = list(range(len(rows)))
    for mode in report["modes"]:
        curve = [row["accuracy"][mode] for row in rows]
        if not all(curve):
            continue
        colour, line, marker = LOOKS[mode]
        means, lows, highs = (
            [100 * interval[key] for interval in curve] for key in ("mean", "low", "high")
        )
        axes.plot(x, means, color=colour, linestyle=line, marker=marker, markersize=4, label=mode)
        axes.fill_between(x, lows, highs, color=colour, alpha=0.10, linewidth=0)
    axes.axhline(50, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xticks(x, [f"{row['lambda']:g}" for row in rows])
    axes.set_xlabel("λ")
    axes.set_ylabel("pairs ranked as preferred (%)")
    axes.legend(loc="best")


def _draw_methods(axes: Axes, rows: Sequence[MethodPoint], report: Mapping[str, Any]) -> None:
    labels: list[Label] = []
    for name, reward, policy in rows:
        x, y = 100 * reward["mean"], 100 * policy["mean"]
        across = [[x - 100 * reward["low"]], [100 * reward["high"] - x]]
        up = [[y - 100 * policy["low"]], [100 * policy["high"] - y]]
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", ecolor="0.8", linewidth=1)
        axes.plot(x, y, "o", color=BLUE, markersize=4)
        labels.append(Label(name, x, y, INK, gap=GAP))
    ends = [*axes.get_xlim(), *axes.get_ylim()]
    diagonal = [min(ends), max(ends)]
    axes.plot(diagonal, diagonal, color=QUIET, linewidth=1, linestyle=":")
    axes.set_xlabel("accuracy of the reward (%)")
    axes.set_ylabel("accuracy of the method (%)")
    tau = report["tau"]["own"]
    if tau.get("value") is not None:
        axes.set_title(f"τ-b = {with_interval(tau, '.2f')}", pad=8)
    name_points(axes, labels)


def name_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Write the labels of an axes that is drawn otherwise."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    place_labels(figure, axes, labels)


def _both_accuracies(row: Mapping[str, Any]) -> tuple[Interval, Interval] | None:
    """A method's accuracies by its reward and in its own mode, if it has both."""
    reward, policy = row["reward_accuracy"], row["accuracy"][row["mode"]]
    return (reward, policy) if reward and policy else None
