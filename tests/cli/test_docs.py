"""``docs/reference/cli.md``, the tutorial and the first guides say what is true of the command line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from preftilt.api import Settings
from preftilt.messages import read_messages
from preftilt.records.patch import MethodPatch, SearchPatch, SettingsPatch
from preftilt.records.rows import read_items
from preftilt.reward import Reward
from preftilt.search import CFG, BestOfN
from tests.cli.conftest import Cli, row

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "reference" / "cli.md").read_text("utf-8")
GUIDES = [
    "tutorial/first-answer.md",
    "how-to/data-set.md",
    "how-to/existing-server.md",
    "how-to/influence.md",
]
CALLS = [
    line.split("#")[0]
    for text in [TEXT, *((DOCS / guide).read_text("utf-8") for guide in GUIDES)]
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
JSON = re.findall(r"^```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("call", CALLS)
def test_the_calls_work(
    call: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("questions.jsonl", "responses.jsonl"):
        given = {"responses": ["draw", "read"]} if name == "responses.jsonl" else {}
        Path(name).write_text(json.dumps(row() | given) + "\n", encoding="utf-8")
    program, *arguments = shlex.split(call.replace("Sing the formulas.", "draw"))  # The toy spells.
    assert program == "preftilt"
    assert cli(*arguments).code == 0


def test_the_conversation_and_the_rows_can_be_read() -> None:
    conversation, rows = JSON
    assert len(read_messages(json.loads(conversation))) == 3
    lines = [line.encode() for line in rows.splitlines()]
    assert len(read_items(lines, source="docs", base=Settings())) == 3


def test_every_field_of_settings_is_listed() -> None:
    [listed] = re.findall(r"^\| `settings` \|(.*)\|$", TEXT, re.MULTILINE)
    names = {one.alias or name for name, one in SettingsPatch.model_fields.items()}
    names |= SearchPatch.model_fields.keys() | MethodPatch.model_fields.keys()
    assert names <= set(re.findall(r"`(\w+)`", listed))


def test_the_defaults_are_told_as_they_are() -> None:
    told = (DOCS / "explanation" / "concepts.md").read_text("utf-8")
    said = Reward()
    lam, of_tokens = Settings(search=BestOfN()).strength, Settings(search=CFG()).strength
    flags = f"--lambda {lam:g} --reduction {said.reduction} --cut-off {said.cut_off}"
    assert f"unless you say otherwise: `{flags}`, and `--lambda {of_tokens:g}` under" in told
    assert f"(if not given: {lam:g}, and {of_tokens:g} under `--search cfg`" in TEXT


def test_every_flag_that_is_mentioned_exists(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    known = {
        flag
        for command in ("ask", "run", "score")
        for flag in re.findall(r"--[a-z-]+", cli(command, "--help").out)
    }
    assert set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", TEXT)) <= known
