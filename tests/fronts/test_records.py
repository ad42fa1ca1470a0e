"""From recorded rewards to a table and a picture; what is missing or makes no sense is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput
from preftilt.eval.fronts import RewardScale, draw_front, fronts, read_rewards, table

FRAME = RewardScale(objectives=("help", "brief"), low=(0, 0), high=(1, 1), reference=(0, 0))


def line(method: str, share: float, prompt: str, **rewards: float) -> dict[str, Any]:
    return {
        "method": method,
        "alpha": {"help": share, "brief": 1 - share},
        "prompt": prompt,
        "rewards": rewards,
        "tokens": 10,
    }


def two_methods() -> list[dict[str, Any]]:
    """``fixed`` answers alike whatever is asked for; ``follows`` goes along with α."""
    rows = []
    for share in (0.0, 0.5, 1.0):
        for prompt, lift in (("one", 0.0), ("two", 0.1)):
            rows.append(line("fixed", share, prompt, help=0.5 + lift, brief=0.4))
            rows.append(line("follows", share, prompt, help=share * 0.8 + lift, brief=1 - share))
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_methods_are_read_measured_and_compared_with_the_first(tmp_path: Path):
    swept = read_rewards([written(tmp_path / "rewards.jsonl", two_methods())], FRAME.objectives)
    report = fronts(swept, FRAME)
    fixed, follows = report["methods"]
    assert fixed["hypervolume"]["value"] == pytest.approx(0.55 * 0.4)
    assert fixed["beyond"] is None
    # MIP by hand: fixed ½ (0.55 + 0.4) on average over α; follows 1 at (0, 1), then ½ (0.45 + 0.5), then 0.85.
    assert fixed["inner_product"]["value"] == pytest.approx(0.475)
    assert follows["inner_product"]["value"] == pytest.approx((1 + 0.475 + 0.85) / 3)
    assert follows["beyond"]["value"] == pytest.approx((1 + 0.475 + 0.85) / 3 - 0.475)
    text = table(report)
    assert "| fixed | 0.220 [" in text
    assert "Δ MIP, fixed" in text
    draw_front(json.loads(json.dumps(report)), tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], "line 1: must be an object"),
        ({"prompt": "x"}, '"method" must be a text'),
        (line("m", 0.5, "x", help=1.0), '"rewards" has no number for brief'),
        (line("m", 0.5, "x", help=1.0, brief=float("inf")), "line 1: Infinity is not a number"),
        (
            line("m", 0.5, "x", help=1.0, brief=1.0) | {"alpha": {"help": 1, "brief": 0, "fun": 0}},
            '"alpha" names fun beside help, brief',
        ),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, row: Any, words: str):
    with pytest.raises(BadInput, match=words):
        read_rewards([written(tmp_path / "bad.jsonl", [row])], FRAME.objectives)


def test_a_missing_answer_and_a_double_one_are_named(tmp_path: Path):
    rows = two_methods()
    with pytest.raises(BadInput, match=r'follows has no answer to 1 of 2 prompts.*"two"'):
        read_rewards([written(tmp_path / "short.jsonl", rows[:-1])], FRAME.objectives)
    with pytest.raises(BadInput, match=r'line 13: fixed answers prompt "one" twice'):
        read_rewards([written(tmp_path / "double.jsonl", [*rows, rows[0]])], FRAME.objectives)


def test_methods_under_different_vectors_are_not_compared(tmp_path: Path):
    rows = [row for row in two_methods() if row["method"] == "fixed" or row["alpha"]["help"] < 1]
    swept = read_rewards([written(tmp_path / "rewards.jsonl", rows)], FRAME.objectives)
    with pytest.raises(BadInput, match="different preference vectors"):
        fronts(swept, FRAME)
