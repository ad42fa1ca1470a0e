"""The flags of ``preftilt reproduce``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from preftilt.cli.grouping import option

_what = partial(option, "Experiment")
_size = partial(option, "Sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentFlags:
    """What is measured, by which protocol and judge."""

    benchmark: Annotated[
        list[str] | None,
        _what(
            "--benchmark",
            "-b",
            metavar="NAME",
            help="demo-world, sys-ifeval, prefeval-explicit, prefeval-choice, prefeval-persona,"
            " prefeval-irrelevant, multifaceted, mmhal, math500, aime24 or amc23; may be repeated.",
            default="demo-world",
        ),
    ] = None
    data: Annotated[
        str | None,
        _what(metavar="FOLDER", help="Where the benchmarks' data are (docs/how-to/benchmarks.md)."),
    ] = None
    judge: Annotated[
        str | None,
        _what(metavar="MODEL", help="Inspect model that judges answers, such as openai/gpt-4.1."),
    ] = None
    judge_prompts: Annotated[
        str | None, _what(metavar="FOLDER", help="The benchmark's own prompts for the judge.")
    ] = None
    max_judge_calls: Annotated[
        int | None, _what(min=0, help="Of a benchmark at most; then the rest has no verdict.")
    ] = None
    max_tokens_total: Annotated[
        int | None,
        _what(
            min=1,
            help="To be sampled and scored, earlier runs into the same records included; what is under way then still"
            " ends, and the report says what is left.",
        ),
    ] = None
    preset: Annotated[str, _what(metavar="rear-paper|rear-official", help="Whose protocol.")] = (
        "rear-paper"
    )
    switches: Annotated[
        str | None, _what(metavar="JSON", help="Changes to the protocol's switches.")
    ] = None
    settings: Annotated[
        str | None,
        _what(metavar="JSON", help='Changes to settings: \'{"max_tokens": 512, "top_p": 0.9}\'.'),
    ] = None
    reference: Annotated[
        str, _what(metavar="greedy|lambda-1", help="What every method is compared with.")
    ] = "greedy"
    seed: Annotated[int, _what(help="Of the random streams.")] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFlags:
    """How many items, samples and processes."""

    limit: Annotated[int | None, _size(min=1, help="Items to report on.", default="all")] = None
    validation: Annotated[
        int, _size(min=0, help="Further items, to choose λ on; 20 at least, or none.")
    ] = 0
    repeats: Annotated[
        int | None,
        _size(
            min=1,
            help="How often every item is answered; intervals are over items.",
            default="the protocol's: 10 for aime24 and amc23, else 1",
        ),
    ] = None
    n: Annotated[int, _size("--n", "-n", min=2, help="Samples that methods pick from.")] = 16
    pool: Annotated[
        int | None,
        _size(min=2, help="Samples an item, for the figure over N.", default="n"),
    ] = None
    tree_lambdas: Annotated[str, _size(metavar="NUMBER[,NUMBER…]", help="λ of tree searches.")] = (
        "1,3,5,20,50"
    )
    tree_items: Annotated[
        int | None, _size(min=1, help="Items with tree searches.", default="all")
    ] = None
    other_items: Annotated[
        int | None,
        _size(
            min=1,
            help="Items with other guided methods than the grid over λ (token-level).",
            default="all",
        ),
    ] = None
    drawn_items: Annotated[
        int | None, _size(min=1, help="Items with guided draws (token-level).", default="all")
    ] = None
    rated_items: Annotated[
        int | None, _size(min=1, help="Items that reward models rate.", default="all")
    ] = None
    timed_items: Annotated[int, _size(min=1, help="Items answered alone, for times.")] = 6
    guided_lambdas: Annotated[
        str, _size(metavar="NUMBER[,NUMBER…]", help="λ of guided decoding, greedy (token-level).")
    ] = "1.5,2,3"
    drawn_lambdas: Annotated[
        str, _size(metavar="NUMBER[,NUMBER…]", help="λ of guided draws (token-level).")
    ] = "2"
    drawn: Annotated[int, _size(min=1, help="Guided draws an item (token-level).")] = 4
    inserted: Annotated[
        str,
        _size(
            metavar="NUMBER[,NUMBER…]",
            help="Messages inserted, for long contexts; 0 is always there.",
        ),
    ] = "5,10,20"
    context_items: Annotated[
        int | None, _size(min=1, help="Items with long contexts.", default="all")
    ] = None
    rm_tokens: Annotated[int, _size(min=1, help="Tokens of a generative RM's reasons at most.")] = (
        512
    )
    processes: Annotated[
        int | None,
        _size(min=1, help="Share items among them.", default="the cores for demo; else one"),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFlags:
    """Where it goes."""

    output: Annotated[
        Path, option("Output", "--output", "-o", metavar="DIR", help="Report and figures.")
    ] = Path("out/reproduce")
    records: Annotated[
        Path | None,
        option(
            "Output", metavar="DIR", help="What was measured, item by item.", default="DIR/records"
        ),
    ] = None
    figures_only: Annotated[
        bool,
        option(
            "Output",
            "--figures-only",
            help="Draw and tell the report in DIR again; measure nothing.",
        ),
    ] = False
