"""Pictures: every format, every odd result, labels that stand free, and what is refused."""

from __future__ import annotations

import math
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from preftilt.errors import BadInput, MissingPackage, PreftiltError
from preftilt.plots import check_picture, plot_realigned, style
from preftilt.plots.realigned import LambdaScale
from preftilt.reward import IMPOSSIBLE, ScoreLine
from tests.plots.results import random_lines, realigned, result_of, scored


def spots(axes: Axes) -> list[np.ndarray]:
    """The points (data coordinates) of everything drawn as a line: marks have one, the hull has several."""
    return [np.asarray(line.get_xydata()) for line in axes.lines]


STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **more: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("suffix", STARTS)
def test_the_name_says_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    plot_realigned(result_of(random_lines(0, 16)), path)
    assert path.read_bytes().startswith(STARTS[suffix])


@pytest.mark.parametrize("seed", range(6))
def test_no_label_covers_another_or_a_mark(seed: int, tmp_path: Path, drawn: list[Figure]) -> None:
    plain = result_of([ScoreLine(-25.0, 1.0)])
    plot_realigned(result_of(random_lines(seed, 16)), tmp_path / "a.svg", plain=plain)
    plane, _ = drawn[0].axes
    boxes = [text.get_window_extent() for text in plane.texts if isinstance(text, Annotation)]
    assert len(boxes) == 16
    assert not any(combination.overlaps(other) for combination, other in combinations(boxes, 2))
    marks = [spot[0] for spot in spots(plane) if len(spot) == 1]
    assert len(marks) == 17
    for x, y in plane.transData.transform(marks):
        assert not any(box.contains(x, y) for box in boxes)


def test_every_winner_of_the_path_is_on_the_hull_and_named_above_its_interval(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    result = result_of(
        [ScoreLine(-10.0, 0.0), ScoreLine(-20.0, 2.0), ScoreLine(-60.0, 4.0), ScoreLine(-50.0, 0.0)]
    )
    plot_realigned(result, tmp_path / "a.svg")
    plane, path = drawn[0].axes
    assert labels(plane) == ["1", "2", "3", "4"]
    assert labels(path) == [
        str(result.candidates[segment.candidate].rank) for segment in result.path
    ]
    assert len(result.path) == 3
    assert len(result.path) in map(len, spots(plane))


def test_equal_candidates_are_one_point(tmp_path: Path, drawn: list[Figure]) -> None:
    same = ScoreLine(-10.0, 1.0)
    plot_realigned(
        result_of([same, same, ScoreLine(-12.0, 0.5)], tokens=[1, 1, 2]), tmp_path / "a.svg"
    )
    assert labels(drawn[0].axes[0]) == ["1", "3"]


@pytest.mark.parametrize(
    ("lines", "lam"),
    [
        ([ScoreLine(-3.0, 1.0)], 20.0),
        ([ScoreLine(-3.0, 1.0)] * 3, 20.0),
        (random_lines(1, 16), 0.0),
        (random_lines(1, 16), -5.0),
        (random_lines(1, 16), 1e6),
        ([IMPOSSIBLE], 20.0),
        ([IMPOSSIBLE, ScoreLine(-3.0, 1.0)], 20.0),
    ],
)
def test_odd_results_can_be_drawn(lines: list[ScoreLine], lam: float, tmp_path: Path) -> None:
    plot_realigned(result_of(lines, lam), tmp_path / "a.png", plain=result_of([IMPOSSIBLE]))
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_cut_off_candidates_are_hollow_and_the_legend_says_so(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    whole, cut = (
        scored(1, ScoreLine(-30, 2), 20.0),
        scored(2, ScoreLine(-10, 4), 20.0, finish="length"),
    )
    plot_realigned(realigned((whole, cut)), tmp_path / "a.svg")
    left = drawn[0].axes[0]
    hollow = {
        tuple(np.array(line.get_xydata()).ravel())
        for line in left.lines
        if line.get_markerfacecolor() == "white" and len(np.asarray(line.get_xdata()))
    }
    assert hollow == {(-10.0, 4.0)}
    assert "cut off" in [text.get_text() for text in drawn[0].legends[0].get_texts()]


def test_the_axes_name_their_units(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_realigned(result_of(random_lines(0, 4), reduction="mean"), tmp_path / "a.svg")
    plane, path = drawn[0].axes
    assert plane.get_xlabel() == "question log-prob (nats a token)"
    assert path.get_ylabel() == "score ÷ (λ + 20)"


@pytest.mark.parametrize(("start", "centre"), [(0.0, 20.0), (-5.0, 5.0), (0.0, 1.0)])
def test_scores_are_straight_lines_on_the_warped_axis(start: float, centre: float) -> None:
    warp = LambdaScale(start, centre)
    line = ScoreLine(-30.0, 2.0)
    low, high = warp.ends(line)
    for lam in (start, start + 0.5, start + centre, start + 100):
        at = low + (high - low) * warp.x(lam)
        assert at == pytest.approx(line.at(lam) / (lam - start + centre))
    assert (warp.x(start), warp.x(start + centre), warp.x(math.inf)) == (0, 0.5, 1)


@pytest.mark.parametrize("lam", [0.5, 1.0, 3.0, 20.0, 100.0, -4.0])
def test_ticks_of_lambda_do_not_crowd_and_include_the_one_in_use(
    lam: float, tmp_path: Path, drawn: list[Figure]
) -> None:
    plot_realigned(result_of(random_lines(2, 8), lam), tmp_path / "a.svg")
    _, path = drawn[0].axes
    ticks = sorted(path.get_xticks())
    assert min(b - a for a, b in pairwise(ticks)) > 0.07
    assert style.plain_number(lam) in [
        get_xticklabel.get_text() for get_xticklabel in path.get_xticklabels()
    ]


def test_text_in_an_svg_stays_text(tmp_path: Path) -> None:
    plot_realigned(result_of(random_lines(0, 4)), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "preference gain (nats)" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", ["a", "a.gif", "a.png.txt"])
def test_unknown_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"must end in \.png, \.svg, \.pdf"):
        check_picture(tmp_path / name)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"preftilt\[plots\]"):
        check_picture(Path("a.png"))


def test_a_picture_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    with pytest.raises(PreftiltError, match=r"cannot write .*: No such file or directory"):
        plot_realigned(result_of(random_lines(0, 4)), tmp_path / "no" / "a.png")
