"""Any text through every command, and back unchanged: control tokens, line separators, NUL, all of Unicode."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.testing.toy import ToyEngine
from tests.cli.conftest import Cli, Opener, records
from tests.engine.any_text import AnyText, engine_saying
from tests.engine.models import byte_tokenizer
from tests.engine.texts import ODD, VISIBLE

pytestmark = pytest.mark.model

few = settings(
    max_examples=4,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
any_text = lambda check: few(given(text=VISIBLE)(example(text=ODD)(check)))  # noqa: E731


@pytest.fixture
def tokenizer() -> AnyText:
    return AnyText(HfChatTokenizer(byte_tokenizer()))


def written(path: Path, *rows: dict[str, Any]) -> Path:
    """Rows as other programs write them: UTF-8, nothing escaped that need not be."""
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    return path


def opened(opener: Opener, engine: ToyEngine) -> None:
    opener.engine.inner = engine


def row(text: str, **more: Any) -> dict[str, Any]:
    return {"id": text, "question": f"{text}?", "preference": f"not {text}!"} | more


@any_text
def test_run_and_resume(
    text: str, cli: Cli, opener: Opener, tokenizer: AnyText, tmp_path: Path
) -> None:
    opened(opener, engine_saying(tokenizer, tokenizer.spelled(text)))
    source = written(tmp_path / "in.jsonl", row(text, **{f"{text}c": [text]}), row("other"))
    out = tmp_path / "out.jsonl"
    call = ("run", source, "-o", out, "--n", 2, "--keep-columns")
    said = cli(*call, "--force")
    assert said.code == 0, said.err
    whole = {record["id"]: record for record in records(out)}
    assert whole.keys() == {text, "other"}
    assert whole[text]["text"] == text
    assert [one["text"] for one in whole[text]["candidates"]] == [text, text]
    assert whole[text]["settings"]["preferences"][0]["text"] == f"not {text}!"
    assert whole[text]["columns"] == {f"{text}c": [text]}
    assert {f"{text}?", f"not {text}!"} <= {*tokenizer.seen}
    lines = out.read_bytes().split(b"\n")[:-1]
    out.write_bytes(next(line for line in lines if json.loads(line)["id"] == text) + b"\n")
    said = cli(*call, "--resume")
    assert (said.code, "1 were done before" in said.err) == (0, True), said.err
    assert {record["id"]: record["text"] for record in records(out)} == {text: text, "other": text}


@any_text
def test_score_and_calibrate(
    text: str, cli: Cli, opener: Opener, tokenizer: AnyText, tmp_path: Path
) -> None:
    opened(opener, engine_saying(tokenizer))
    responses = [f"{text}z", text, "another"]
    source = written(tmp_path / "in.jsonl", row(text, responses=responses))
    out = tmp_path / "out.jsonl"
    said = cli("score", source, "-o", out, "--force")
    assert said.code == 0, said.err
    [record] = records(out)
    by_slot = {one["slot"]: one["text"] for one in record["candidates"]}
    assert [by_slot[slot] for slot in range(3)] == responses
    assert {*responses, f"{text}?", f"not {text}!"} <= {*tokenizer.seen}

    ids = (text, f"{text}2")
    rated = written(tmp_path / "rated.jsonl", *(record | {"id": id, "split": text} for id in ids))
    qualities = [{"id": id, "slot": slot, "quality": slot} for id in ids for slot in range(3)]
    flags = ("--split", text, "--quality", written(tmp_path / "q.jsonl", *qualities))
    choice = tmp_path / "choice.json"
    said = cli("calibrate", rated, *flags, "--min-items", 2, "-o", choice)
    assert said.code == 0, said.err
    assert json.loads(choice.read_bytes())["items"] == 2


@any_text
def test_policy_accuracy(
    text: str, cli: Cli, opener: Opener, tokenizer: AnyText, tmp_path: Path
) -> None:
    opened(opener, engine_saying(tokenizer))
    names = {"user": f"{text}u", "group": f"{text}g"}
    said_before = {"examples": [{"question": f"{text}q", "response": f"{text}r"}]}
    pair = {"chosen": text, "rejected": [f"{text}n"]}
    pairs = (row(text, **names, **pair), row("other", **pair))
    source = written(tmp_path / "in.jsonl", *(one | said_before for one in pairs))
    out = tmp_path / "out"
    call = ("policy-accuracy", source, "-o", out, "--rule", "base", "--rule", "icl=1")
    for how in ("--force", "--resume"):
        said = cli(*call, "--mode", "mean", "--lambda", 1, how)
        assert said.code == 0, said.err
    [record] = [one for one in records(out / "records.jsonl") if one["id"] == text]
    assert (record["id"], record["user"], record["group"]) == (text, f"{text}u", f"{text}g")
    assert {text, f"{text}n", f"{text}?", f"{text}q", f"{text}r"} <= {*tokenizer.seen}
    assert [*json.loads((out / "report.json").read_bytes())["groups"]] == [f"{text}g", "all"]
    _, _, groups = (out / "report.md").read_text("utf-8").partition("## Groups\n\n")
    assert len(groups.partition("\n\n")[0].strip("\n").split("\n")) == 2 + 2
    with (out / "users.csv").open(encoding="utf-8", newline="") as file:
        users = {(user["user"], user["group"]) for user in csv.DictReader(file)}
    assert users == {(f"{text}u", f"{text}g"), ("other", "all")}


@any_text
def test_sweep_and_fronts(
    text: str, cli: Cli, opener: Opener, tokenizer: AnyText, tmp_path: Path
) -> None:
    opened(opener, engine_saying(tokenizer, tokenizer.spelled(text)))
    source = written(tmp_path / "in.jsonl", {"id": text, "question": f"{text}?"})
    out, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    out.unlink(missing_ok=True)
    raters = (
        "--reward",
        "long=tests.cli.test_sweep:length",
        "--cost",
        "wordy=tests.cli.test_sweep:letters",
    )
    call = ("sweep", source, "-o", out, *raters, "--steps", 1, "--search", "greedy")
    for _ in ("first", "and again, where all is there"):
        said = cli(*call, "--name", text)
        assert said.code == 0, said.err
        swept = records(out)
        assert [(one["prompt"], one["method"], one["text"]) for one in swept] == [(text,) * 3] * 2
    assert all(json.loads(one["id"])[-1] == text for one in swept)
    assert f"{text}?" in tokenizer.seen
    frame = ("--range", "long=0:999", "--range", "wordy=-999:0", "--reference", "0,0")
    said = cli("fronts", out, *frame, "-o", report)
    assert said.code == 0, said.err
    assert [one["method"] for one in json.loads(report.read_bytes())["methods"]] == [text]
    _, *table = said.out.split("\n\n")[-1].strip().split("\n")
    assert len(table) == 2  # The line below the titles, and the one method's.


HALF = "a\ud800"


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("run", {"id": HALF}),
        ("run", {"column": [HALF]}),
        ("run", {"settings": {"system": HALF}}),
        ("score", {"responses": ["fine", HALF]}),
        ("sweep", {"question": HALF}),
        ("policy-accuracy", {"id": HALF}),
        ("policy-accuracy", {"rejected": HALF}),
        ("policy-accuracy", {"group": HALF}),
    ],
)
def test_half_a_surrogate_pair_is_refused_before_a_model_is_opened(
    command: str, fields: dict[str, Any], cli: Cli, opener: Opener, tmp_path: Path
) -> None:
    more = {
        "score": {"responses": ["draw"]},
        "policy-accuracy": {"chosen": "draw", "rejected": "win"},
    }
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(json.dumps(row("x") | more.get(command, {}) | fields) + "\n", "utf-8")
    flags = {
        "run": ("--keep-columns",),
        "sweep": (
            "--reward",
            "a=tests.cli.test_sweep:length",
            "--reward",
            "b=tests.cli.test_sweep:length",
        ),
    }
    said = cli(command, source, "-o", out, *flags.get(command, ()))
    assert (said.code, opener.asked, out.exists()) == (2, [], False)
    assert "line 1: " in said.err
    assert "is not valid Unicode (half a surrogate pair at character" in " ".join(said.err.split())
