"""Prompts with gaps: filled at once, taken from the user's folder, refused if a gap is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval import GAPS, load_prompts
from preftilt.eval.harness.rows import PromptTemplate, load_template


def test_a_filling_that_looks_like_a_gap_stays_as_it_is() -> None:
    prompt = PromptTemplate("{a} and {b}, {c}", frozenset({"a", "b"}), "here")
    assert prompt.fill({"a": "{b}", "b": "two"}) == "{b} and two, {c}"


@pytest.mark.parametrize("check", GAPS)
def test_every_check_has_a_prompt_of_our_own(check: str) -> None:
    prompt = load_template("prefeval", f"check_{check}.txt", GAPS[check])
    filled = prompt.fill({name: f"<<{name}>>" for name in GAPS[check]})
    assert all(f"<<{name}>>" in filled for name in GAPS[check])
    assert "<answer>" in filled
    assert prompt.source == "preftilt"


def test_the_benchmarks_own_prompts_are_taken_from_a_folder(tmp_path: Path) -> None:
    for check, gaps in GAPS.items():
        text = " ".join(f"{{{name}}}" for name in gaps)
        (tmp_path / f"check_{check}.txt").write_text(text, "utf-8")
    prompts = load_prompts(str(tmp_path), 4)
    assert set(prompts.of) == set(GAPS)
    assert prompts.to_json()["helpful"] == str(tmp_path / "check_helpful.txt")


def test_a_prompt_without_its_gap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "check_violation.txt").write_text("{preference} {question}", "utf-8")
    with pytest.raises(BadInput, match=r"check_violation\.txt .* has no \{end_generation\}"):
        load_prompts(str(tmp_path), 2)


def test_a_folder_without_the_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*check_.*\.txt"):
        load_prompts(str(tmp_path), 2)


def test_there_are_two_checks_or_four() -> None:
    assert set(load_prompts(None, 2).of) == {"violation", "helpful"}
    with pytest.raises(BadInput, match="checks is 3"):
        load_prompts(None, 3)
