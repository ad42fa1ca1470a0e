"""The speed bench itself: what it counts as memory, how often it measures, what its report says of it."""

from __future__ import annotations

import sys

import pytest
import torch
from bench.figures import Effort, Figure
from bench.memory import measuring
from bench.report import AIMS, MeasuredModel, circumstances, markdown

pytestmark = pytest.mark.model


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's high-water mark")
def test_memory_that_is_used_again_is_counted_again():
    """An allocator that keeps what was freed would show nothing the second time."""
    peaks: list[float | None] = []
    for _ in range(2):
        with measuring(torch.device("cpu")) as peak:
            several = [torch.ones(1 << 18) for _ in range(64)]
            del several
        peaks.append(peak.mib)
    assert peaks == [pytest.approx(64, abs=16)] * 2


def test_the_report_names_its_command_and_how_many_values_stand_behind_a_figure():
    rows = {name: Figure(name, aim) for name, aim in AIMS["cpu"].items()}
    for name, row in rows.items():
        row.add(1.0, 4.0)
        row.held(10.0, 30.0)
        if name == "growth":
            row.add(3.0, 4.0)
            row.held(20.0, None)
    facts = circumstances("cpu", 0, "python -m bench --repeats 2")
    text = markdown(
        "cpu", facts, [MeasuredModel("tiny", 1000, "2 packed, 1 plain", list(rows.values()))]
    )
    assert "Made by `python -m bench --repeats 2`." in text
    assert "Linear layers as measured at opening: 2 packed, 1 plain." in text
    [generate] = [line for line in text.splitlines() if "alone, 1,000-token prompt" in line]
    assert generate.endswith("| ≤ 0.5 | **0.25** (n 1) | 1 s | 4 s | 10 / 30 |")
    [growth] = [line for line in text.splitlines() if "prefills subtracted" in line]
    assert "**0.50** (0.25–0.75, n 2)" in growth
    assert growth.endswith("| 20 / 30 |")


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (1e9, 3)])
def test_a_figure_is_measured_at_least_once_and_not_for_too_long(
    seconds: float, expected: int
) -> None:
    assert list(Effort(3, seconds).rounds()) == list(range(1, expected + 1))
