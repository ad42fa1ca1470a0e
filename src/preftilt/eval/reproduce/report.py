"""A report's numbers as blocks for people: what was run and how, every table and figure, and the paper's own numbers
beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preftilt.eval.calibrate.choice import MIN_ITEMS
from preftilt.eval.harness.cells import percent
from preftilt.eval.harness.method import Json
from preftilt.eval.reproduce import token_level_report
from preftilt.eval.reproduce.document import Block, Heading, Picture, Table, Text
from preftilt.eval.reproduce.experiments import EXPERIMENTS, TOKEN_LEVEL
from preftilt.eval.reproduce.notes import notes
from preftilt.eval.reproduce.paper import PUBLISHED, PublishedTable

Pictures = Mapping[tuple[str, str], Sequence[str]]
"""Files by benchmark and experiment."""

TITLE = "The REAR paper's experiments, measured with preftilt"


def title_of(report: Json) -> str:
    """The report's title: that of the one experiment which is not the paper's, if there is no other."""
    own = report["experiments"] == [TOKEN_LEVEL]
    return EXPERIMENTS[TOKEN_LEVEL].title if own else TITLE


def blocks(report: Json, pictures: Pictures) -> list[Block]:
    """The whole report."""
    whole: list[Block] = [Heading(title_of(report), 1), *_head(report)]
    for benchmark in report["benchmarks"]:
        whole += [Heading(benchmark["title"]), *_protocol(benchmark)]
        for name in report["experiments"]:
            whole += _experiment(name, benchmark, pictures)
    published = [PUBLISHED[name] for name in report["experiments"] if name in PUBLISHED]
    return [*whole, *_paper(published)]


def _head(report: Json) -> list[Block]:
    judge = report["judge"] or "none (exact checks)"
    reward = report["reward_model"] or "none named (its rows are left out)"
    return [
        *_partial(report),
        Text(
            f"Made by `{report['command']}` (preftilt {report['version']}). Model: {report['model']}. Judge: {judge}."
            f" Generative RM: {report['generative_rm']}. External RM: {reward}. Seed {report['seed']};"
            f" N = {report['n']} for every method that picks among samples."
        ),
        Text(
            "Numbers are means over items with 95 % bootstrap intervals. Δ is the paired difference from the reference"
            " on the items that both were measured on, with a two-sided p-value: McNemar's exact test where every item"
            " is right or wrong, the paired bootstrap elsewhere. Differences whose interval leaves 0 out are bold,"
            f" on {MIN_ITEMS} items or more. How"
            " many comparisons a table makes stands above it; no p-value is corrected for their number."
        ),
        Text(
            "What an answer costs: *sampled*, tokens drawn; *scored*, tokens read besides, to score candidates or to"
            " guide decoding; *judged*, readings of a reward model or judging model; *s*, seconds, measured on a few"
            " items that were answered alone, one method after the other (a method that picks among the same samples by"
            " the same scores shows the time of the one that was timed). *Tokens* are the answer's length. *No score*"
            " is the share of samples that a reward model gave no score, which come last, and *no verdict* the number"
            " of answers whose judgement failed or was not asked for, which count nowhere."
        ),
    ]


def _partial(report: Json) -> list[Block]:
    """What the budget left unmeasured, first of all."""
    if not report["unmeasured"]:
        return []
    left = "; ".join(
        f"{part['what']}: {part['items']} of {part['of']}" for part in report["unmeasured"]
    )
    return [
        Text(
            f"**This report is partial**: of a budget of {report['max_tokens_total']:,} tokens, {report['tokens']:,}"
            f" are spent. Not measured: {left}. Where a method was measured on fewer items than another, they are"
            " compared on those that both have. Run it again with a higher `--max-tokens-total`, and it goes on from"
            " here."
        )
    ]


def _protocol(benchmark: Json) -> list[Block]:
    """The values of all switches, λ as chosen, and what was left out."""
    settings = {**benchmark["switches"], **benchmark["settings"]}
    searches = {
        f"{search}: {name}": value
        for search, own in benchmark["searches"].items()
        for name, value in own.items()
    }
    values = "; ".join(
        f"{name} {_value(value)}" for name, value in {**settings, **searches}.items()
    )
    times = benchmark["repeats"]
    repeats = "" if times == 1 else (
        f", each answered {times} times (greedy and guided decoding once, as they leave nothing to chance): a method's"
        " number on an item is the mean over its answers, and intervals and tests are over items"
    )  # fmt: skip
    paragraphs: list[Block] = [Text(f"{benchmark['items']} items{repeats}. Protocol: {values}.")]
    if benchmark["chosen"]:
        paragraphs.append(Text(_chosen(benchmark)))
    elif benchmark["validation"] and TOKEN_LEVEL not in benchmark:  # That chooses for itself.
        paragraphs.append(Text("There were too few validation items with verdicts to choose λ on."))
    return [*paragraphs, *map(Text, notes(benchmark))]


def _chosen(benchmark: Json) -> str:
    said = [
        f"λ = {choice['lambda']:g} for the {choice['reduction']} (best in {choice['wins']:.0%} of resamples; λ from"
        f" {min(near):g} to {max(near):g} cannot be told from it)"
        for choice in benchmark["chosen"]
        for near in [choice["within_reach"] or [choice["lambda"]]]
    ]
    return (
        f"Chosen on {benchmark['chosen'][0]['items']} validation items, which are none of those reported:"
        f" {'; '.join(said)}. Rows with that λ have it in *italics*."
    )


def _value(value: Any) -> str:
    """A switch's value as people read it; white space, such as a step's delimiter, is spelt."""
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, str) and not value.strip():
        return f"`{value!r}`"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _experiment(name: str, benchmark: Json, pictures: Pictures) -> list[Block]:
    section: list[Block] = [Heading(EXPERIMENTS[name].title, 3)]
    if name in benchmark["tables"]:
        section += _tables(name, benchmark)
    files = pictures.get((benchmark["name"], name), ())
    if name == TOKEN_LEVEL:
        return [*section, *token_level_report.blocks(benchmark, files, _table)]
    section += [Picture(file, f"{benchmark['title']}: {EXPERIMENTS[name].title}") for file in files]
    if name == "fig3" and "plane" in benchmark["figures"].get(name, {}):
        section.append(
            Text("The last picture is the plane of the two parts; numbers beside lines are λ.")
        )
    if len(section) == 1:
        section.append(Text("There is nothing to show: this benchmark has no such measurement."))
    return section


def _tables(name: str, benchmark: Json) -> list[Block]:
    data = benchmark["tables"][name]
    if name != "table2":
        return [_table(data, benchmark, "")]
    return [
        _table(each, benchmark, f"{each['inserted']} messages inserted. ") for each in data
    ]  # fmt: skip


def _table(data: Json, benchmark: Json, before: str) -> Table:
    judged = not benchmark["exact"]
    missing = any(row["missing"] for row in data["rows"])
    unjudged = any(row["unjudged"] for row in data["rows"])
    header = [
        "method", "λ", "items",
        *(f"{metric} (%)" for metric in benchmark["metrics"]),
        f"Δ {data['reference']}", "p", "tokens", "sampled", "scored", "judged",
        *(["judge calls"] if judged else []), "s",
        *(["no score"] if missing else []), *(["no verdict"] if unjudged else []),
    ]  # fmt: skip
    rows = []
    for row in data["rows"]:
        cells = [
            _name(row),
            _lambda(row),
            str(row["items"]),
            *(percent(row["metrics"].get(metric)) for metric in benchmark["metrics"]),
            *_over(row["over"]),
            f"{row['length']:.0f}",
            f"{row['sampled']:.0f}",
            f"{row['scored']:.0f}",
            f"{row['judged']:.0f}" if row["judged"] else "–",
            *(
                ["–" if row["judge_calls"] is None else f"{row['judge_calls']:.1f}"]
                if judged
                else []
            ),
            "–" if row["seconds"] is None else f"{row['seconds']:.2f}",
            *([f"{row['missing']:.0%}" if row["missing"] else "–"] if missing else []),
            *([str(row["unjudged"] or "–")] if unjudged else []),
        ]
        rows.append(cells)
    count = data["comparisons"]
    caption = f"{before}{count} comparisons with {data['reference']}"
    if count:
        caption += (
            f"; at 5 % for all of them together p must be below {0.05 / count:.2g} (Bonferroni)"
        )
    return Table(header, rows, caption)


def _name(row: Json) -> str:
    by = f", {row['reduction']}" if row["reduction"] and row["lam"] is not None else ""
    return f"{row['method']}{by}"


def _lambda(row: Json) -> str:
    if row["lam"] is None:
        return ""
    return f"*{row['lam']:g}*" if row["chosen"] else f"{row['lam']:g}"


def _over(over: Json | None) -> list[str]:
    if over is None:
        return ["–", "–"]
    mean, low, high = (100 * over["difference"][key] for key in ("mean", "low", "high"))
    # Rounded first, so that a hair below nothing is not told as minus nothing.
    text = "{:+.1f} [{:+.1f}, {:+.1f}]".format(
        *(round(number, 1) + 0 for number in (mean, low, high))
    )
    p = over["p"]
    p_value = "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    clear = (low > 0 or high < 0) and over["difference"]["n"] >= MIN_ITEMS
    return [f"**{text}**" if clear else text, p_value]


def _paper(published: Sequence[PublishedTable]) -> list[Block]:
    """The paper's numbers, apart from ours."""
    if not published:
        return []
    section: list[Block] = [
        Heading("What the paper prints"),
        Text(
            "These are **the paper's numbers** (arXiv 2606.30339), copied, not measured here: another model, another"
            " judge, another benchmark than any table above unless you chose the same. It prints no intervals."
        ),
    ]
    for table in published:
        rows = [
            [name, *values] for name, values in table.rows.items()
        ]  # fmt: skip
        section.append(Table(["the paper's method", *table.columns], rows, table.title))
    return section
