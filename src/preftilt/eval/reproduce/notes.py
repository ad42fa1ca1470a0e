"""What a reader should know before a benchmark's numbers: what was left out, and what does not mean what it seems."""

from __future__ import annotations

from collections.abc import Iterator

from preftilt.eval.calibrate.choice import MIN_ITEMS
from preftilt.eval.harness.method import Json

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
    if any(
        _of_no_width(interval) for row in _rows(benchmark) for interval in row["metrics"].values()
    ):
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


def _of_no_width(interval: Json) -> bool:
    return interval["low"] == interval["high"] and interval["n"] > 1
