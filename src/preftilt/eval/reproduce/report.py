"""A report's numbers as blocks for people: what was run and how, every table and figure, and the paper's own numbers
beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftilt.eval.calibrate import MIN_ITEMS
from preftilt.eval.harness.benchmark import Json
from preftilt.eval.report import Block, Heading, Picture, Table, Text, percent
from preftilt.eval.reproduce.experiments import EQUAL_TOKENS, EXPERIMENTS, OWN, TOKEN_LEVEL


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A printed table: ``rows`` by method, in the order of ``columns``, as printed."""

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


TABLE_1 = PublishedTable(
    "Table 1 of the paper: Qwen2.5-7B-Instruct, N = 16, judge GPT-4.1; score in percent, PingPong from 1 to 5",
    (
        "PrefEval explicit",
        "PrefEval choice",
        "PrefEval implicit (persona)",
        "Multifaceted",
        "PingPong",
    ),
    {
        "DVTS-REAR": ("77.7", "78.6", "19.1", "76.8", "3.03"),
        "BoN-REAR": ("74.1", "78.2", "16.2", "76.3", "3.07"),
        "greedy": ("67.0", "71.5", "12.0", "75.3", "2.97"),
        "BoN by external RM": ("73.4", "78.3", "17.0", "76.5", "2.97"),
        "BoN by generative RM": ("69.0", "74.7", "12.9", "76.1", "3.01"),
        "Amulet": ("68.5", "70.4", "13.1", "75.4", "2.87"),
        "Linear Alignment": ("64.2", "78.0", "12.8", "75.6", "3.01"),
    },
)

TABLE_3 = PublishedTable(
    "Table 3 of the paper: MMHal-Bench, Qwen3-VL-8B-Instruct, N = 16, λ = 20, judge GPT-4.1, percent",
    ("score", "hallucination rate"),
    {
        "BoN-REAR": ("84.20", "21.87"),
        "BoN by generative RM": ("80.21", "23.96"),
        "greedy": ("78.99", "28.12"),
    },
)

PUBLISHED = {"table1": TABLE_1, "table3": TABLE_3}


SURE = 0.5
"""Probability of Yes and No together below which a generative RM has not understood what it was asked."""

CUT_OFF = 0.05
"""Share of samples cut off from which a report says so."""

UNRATED = 0.5
"""Share of samples without a score above which a method is named."""


def notes(benchmark: Json) -> Iterator[str]:
    """A paragraph for everything that there is to say of a benchmark's part of a report."""
    yield from _of_models(benchmark)
    yield from map(_skipped, benchmark["skipped"])
    items = benchmark["items"]
    if items < MIN_ITEMS:
        yield (
            f"**{items} items are too few** for intervals, which come out too narrow, and for p-values: take"
            f" {MIN_ITEMS} at least."
        )
    intervals = [each for row in _rows(benchmark) for each in row["metrics"].values()]
    if any(each["low"] == each["high"] and each["n"] > 1 for each in intervals):
        yield (
            "An interval of no width means that all items had the same value, and not that the number is exact: what"
            f" none of {items} items shows may still be so of up to {min(1, 3 / items):.0%} of all there could be"
            " (at 95 %)."
        )


def _of_models(benchmark: Json) -> Iterator[str]:
    for name, share in benchmark["sure"].items():
        if share < SURE:
            yield (
                f"The {name} gave Yes and No together {share:.1%} of the probability on average: the model did not"
                " understand what it was asked, and its verdicts mean little."
            )
    for method, share in {row["method"]: row["missing"] for row in _rows(benchmark)}.items():
        if share > UNRATED:
            yield (
                f"{method} has no score for {share:.0%} of the samples, and where none has one it takes the first that"
                " came to its end: its numbers say little about it."
            )
    if (benchmark["cut_off"] or 0) >= CUT_OFF:
        yield (
            f"{benchmark['cut_off']:.0%} of the samples were cut off before their end: `max_tokens` (or the model's"
            " context) is too short for this model's answers."
        )


def _skipped(skipped: Json) -> str:
    turns = f" with {skipped['inserted']} messages inserted" if skipped["inserted"] else ""
    whose = "one item has" if skipped["items"] == 1 else f"{skipped['items']} items have"
    return (
        f"Left out: {whose} no {skipped['part']}{turns}, for such reasons as: {skipped['example']}."
    )


def _rows(benchmark: Json) -> list[Json]:
    """The rows of all tables; an experiment may have several."""
    tables = [
        table
        for each in benchmark["tables"].values()
        for table in (each if isinstance(each, list) else [each])
    ]
    return [row for table in tables for row in table["rows"]]


Pictures = Mapping[tuple[str, str], Sequence[str]]
"""Files by benchmark and experiment."""

TITLE = "The REAR paper's experiments, measured with preftilt"


def title_of(report: Json) -> str:
    """The report's title: that of the one experiment which is not the paper's, if there is no other."""
    names = report["experiments"]
    return EXPERIMENTS[names[0]].title if len(names) == 1 and names[0] in OWN else TITLE


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
    elif benchmark["validation"] and OWN.isdisjoint(benchmark):  # Those choose for themselves.
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
        data = benchmark["tables"][name]
        section += [
            _table(
                each,
                benchmark,
                f"{each['inserted']} messages inserted. " if name == "table2" else "",
            )
            for each in (data if name == "table2" else [data])
        ]
    files = pictures.get((benchmark["name"], name), ())
    if name == TOKEN_LEVEL:
        return [*section, *_token_level(benchmark, files)]
    if name == EQUAL_TOKENS:
        return [*section, *_equal_tokens(benchmark[name])]
    section += [Picture(file, f"{benchmark['title']}: {EXPERIMENTS[name].title}") for file in files]
    if name == "fig3" and "plane" in benchmark["figures"].get(name, {}):
        section.append(
            Text("The last picture is the plane of the two parts; numbers beside lines are λ.")
        )
    if len(section) == 1:
        section.append(Text("There is nothing to show: this benchmark has no such measurement."))
    return section


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
        lam = "" if row["lam"] is None else f"{row['lam']:g}"
        cells = [
            f"{row['method']}, {row['reduction']}" if row["reduction"] and lam else row["method"],
            f"*{lam}*" if row["chosen"] and lam else lam,
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


BEST_ROWS = 12
"""Rows of the validation table that are shown: the best of them, as all are in report.json."""

CAPTIONS = {
    "lambda": "following over λ",
    "tokens": "following over the tokens spent on an answer",
    "length": "mean length of the answer that wins, over λ",
}

READING = (
    "*Best-of-N* draws N answers and picks one by S at λ, reduced as named; *cut off last* puts answers that were"
    " cut off behind all that ended, *cut off as-is* compares them like the others. *Guided* decoding applies λ to"
    " every token: greedily, or drawn (*guided draws*), of which one is then picked. λ in *italics* was chosen on"
    " validation items. What is sampled and scored is per answer; a guided token is read under both views."
)


def _token_level(benchmark: Json, files: Sequence[str]) -> list[Block]:
    """What was chosen and by what, the test table against both references, the constraints, the figures."""
    data = benchmark["token-level"]
    section: list[Block] = []
    if "validation" in data:
        section += _choice(data, benchmark)
    section += [Heading("Test items", 4), Text(READING)]
    section += [_table(each, benchmark, "") for each in data["tables"].values()]
    section += [
        Picture(file, f"{benchmark['title']}: {CAPTIONS[Path(file).stem.rpartition('-')[2]]}")
        for file in files
    ]
    if data["breakdown"]["rows"]:
        section += _constraints(data["breakdown"])
    return section


def _choice(data: Json, benchmark: Json) -> list[Block]:
    whole = data["validation"]
    headline = benchmark["metrics"][0]
    ranked = sorted(whole["rows"], key=lambda row: -row["metrics"][headline]["mean"])
    best = {**whole, "rows": ranked[:BEST_ROWS]}
    return [
        Heading("Validation items: what was chosen from", 4),
        Text(
            f"{len(whole['rows'])} methods were measured on items that are none of those reported below; the best"
            f" {min(BEST_ROWS, len(ranked))} stand here, all of them in report.json. The best member of each family"
            " goes on to the test items."
        ),
        _table(best, benchmark, ""),
    ]


def _constraints(data: Json) -> list[Block]:
    header = ["constraint", "n", *(f"{name} (%)" for name in data["methods"])]
    rows = [
        [
            row["metric"].removeprefix("constraint "),
            str(row["n"]),
            *("–" if mean is None else f"{100 * mean:.0f}" for mean in row["means"]),
        ]
        for row in data["rows"]
    ]
    return [
        Heading("By constraint", 4),
        Text(
            "Share of the constraints of a kind that are met; n are rows. Few rows: read large differences alone."
        ),
        Table(header, rows),
    ]


EQUAL_READING = (
    "Best-of-M is the mean over all ways to take M of the draws. A strategy spends a share of the tokens of all draws;"
    " beside it stands best-of-M **at equal tokens**, where M need not be whole (a coin decides between two). *Lead* is"
    " the share of best-of-N's lead in mean score over one draw. *Halving* lets the share named go on after so many"
    " tokens; *drop what cannot win* is exact; *stop early* makes another draw while it is expected to raise the best"
    " score enough, and *spread* makes it where that is most. What halving keeps, and the price of stopping, were"
    " chosen on validation items: what leads furthest, and what spends most, within the budget."
    " Stopping and spreading have a budget halfway between two draws and all of them."
)


def _equal_tokens(data: Json) -> list[Block]:
    """For each pool: following over M, and the strategies."""
    section: list[Block] = [
        Text(f"{EQUAL_READING} Halving's is {data['most']:.0%} of best-of-N's tokens.")
    ]
    for part in data["pools"]:
        section += [
            Heading(f"{part['pool'].capitalize()}, {part['draws']} an item", 4),
            Text(
                f"{part['items']} test items, {part['validation']} validation items;"
                f" {part['tokens']:.0f} tokens a draw."
            ),
            Table(
                ["picked by", *(f"M = {m} (%)" for m in part["sizes"]), "Δ M = 1", "p"],
                [
                    *(
                        [curve["pick"], *map(percent, curve["following"]), *_over(curve["over_one"])]
                        for curve in part["curves"]
                    ),
                    ["any of M (oracle)", *(f"{100 * mean:.1f}" for mean in part["oracle"]), "–", "–"],
                ],
            ),
            Table(
                [
                    "picked by", "strategy", "tokens", "M", "(%)", "best-of-M (%)", "Δ best-of-M", "p",
                    f"Δ best-of-{part['draws']}", "p", "lead", "best-of-M's lead",
                ],
                [_strategy(row) for row in part["strategies"]],
            ),
        ]  # fmt: skip
    return section


def _strategy(row: Json) -> list[str]:
    shares = ("–" if row[name] is None else f"{row[name]:.0%}" for name in ("lead", "equal_lead"))
    return [
        row["pick"],
        row["strategy"],
        f"{row['share']:.0%}",
        f"{row['m']:.1f}",
        percent(row["following"]),
        f"{100 * row['equal']:.1f}",
        *_over(row["over_equal"]),
        *_over(row["over_all"]),
        *shares,
    ]
