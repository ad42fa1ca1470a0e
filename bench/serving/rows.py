"""A row of the table: pairs of values measured right after each other, and what is said of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class RatioRow:
    """``top`` ÷ ``bottom``, one pair of values a repeat.

    aim: the ratio asked for, None where none is. at_least: it is a least ratio, not a most. unit: of the values:
    seconds, or what is counted.
    """

    name: str
    title: str
    aim: float | None
    at_least: bool = False
    unit: str = "s"
    top: list[float] = field(default_factory=list)
    bottom: list[float] = field(default_factory=list)

    def add(self, top: float, bottom: float) -> None:
        self.top.append(top)
        self.bottom.append(bottom)

    @property
    def ratios(self) -> list[float]:
        return [top / bottom for top, bottom in zip(self.top, self.bottom, strict=True)]

    def cells(self) -> list[str]:
        """The row of the table."""
        ratios = self.ratios
        low, high = quartiles(ratios)
        return [
            self.title,
            "–" if self.aim is None else f"{'≥' if self.at_least else '≤'} {self.aim:g}",
            f"**{statistics.median(ratios):.2f}** ({low:.2f}–{high:.2f}, n {len(ratios)})",
            self._said(self.top),
            self._said(self.bottom),
        ]

    def _said(self, values: list[float]) -> str:
        median = statistics.median(values)
        return f"{median:.3g} s" if self.unit == "s" else f"{median:,.0f} {self.unit}"


def quartiles(values: list[float]) -> tuple[float, float]:
    """The middle half of the values; of a single one, itself twice."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def rotated(sides: tuple[str, ...], repeats: int) -> Iterator[tuple[str, ...]]:
    """The order of the sides in every repeat: each begins as often as the others, so that drift favours none."""
    for repeat in range(repeats):
        start = repeat % len(sides)
        yield sides[start:] + sides[:start]
