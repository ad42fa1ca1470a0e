"""Images on the command line: a flag of ask, parts of messages in rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, real_cli
from tests.vision.models import picture

__all__ = ["real_cli"]

pytestmark = pytest.mark.model

FEW = ("--n", 2, "--max-tokens", 4, "--lambda", 3)


def test_ask_shows_pictures_and_another_one_is_another_question(
    real_cli: Cli, llava: str, tmp_path: Path
) -> None:
    found = []
    for seed in (1, 2):
        shown = ("--image", picture(tmp_path, seed), "--image", picture(tmp_path, 3))
        said = real_cli("ask", "What?", "-p", "No cats.", "-m", llava, *shown, *FEW, "--json")
        assert said.code == 0, said.err
        found.append(said.object)
    prompts = [one["prompts"]["question"] for one in found]
    assert len(prompts[0]) == len(prompts[1])
    assert prompts[0] != prompts[1]
    assert found[0]["candidates"] != found[1]["candidates"]


def test_rows_are_answered_about_their_pictures(real_cli: Cli, llava: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    content = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": picture(tmp_path, 1)}},
    ]
    row = {"messages": [{"role": "user", "content": content}], "preference": "No cats."}
    rows.write_text(json.dumps(row) + "\n", "utf-8")
    out = tmp_path / "out.jsonl"
    said = real_cli("run", rows, "-o", out, "-m", llava, *FEW)
    assert said.code == 0, said.err
    [record] = map(json.loads, out.read_text("utf-8").splitlines())
    assert len(record["candidates"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("What?", "--image", "nowhere.png"), "--image nowhere.png: .* cannot be read"),
        (("What?", "--image", "https://example.org/a.png"), "web address"),
        (("--messages", "-", "--image", "a.png"), "--image belongs to a QUESTION"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_the_model_is_opened(
    arguments: tuple[str, ...], message: str, real_cli: Cli
) -> None:
    said = real_cli("ask", *arguments, "-p", "No cats.", "-m", "nowhere")
    assert said.code == 2
    assert re.search(message, said.err), said.err


def test_a_model_of_text_is_not_shown_pictures(real_cli: Cli, tmp_path: Path) -> None:
    said = real_cli(
        "ask", "What?", "-p", "No cats.", "--image", picture(tmp_path, 1), *FEW, "-m", "demo"
    )
    assert said.code == 2
    assert "use a vision-language model on the transformers engine" in said.err
