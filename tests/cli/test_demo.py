"""The command line with the bundled model: nothing replaced; what matters in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from preftilt.records import SEARCHES
from tests.cli.conftest import Cli, records, row
from tests.cli.test_schema import validator

pytestmark = pytest.mark.model

Write = Callable[..., Path]
PREFTILT = (sys.executable, "-c", "from preftilt.cli import main; main()")
QUESTION = "What are some enjoyable ways to study maths?"
WISH = "I dislike gamification."
DEMO = ("--model", "demo")
ASK = ("ask", QUESTION, "--preference", WISH, "--max-tokens", 40)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "80")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen[str](
        [*PREFTILT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def test_one_question_the_whole_way(tmp_path: Path) -> None:
    picture, page = tmp_path / "a.png", tmp_path / "a.html"
    flags = (
        "--search",
        "best-of-n",
        "--lambda",
        3,
        "--plot",
        picture,
        "--explain",
        "--explain-html",
        page,
    )
    process = start("ask", QUESTION, "--preference", WISH, *flags, *DEMO)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    for part in ("Realigned answer:", "The model alone", "What λ does", "most for it:"):
        assert part in out
    assert picture.stat().st_size > 10_000
    assert "<details open>" in page.read_text("utf-8")


def test_every_search_gives_a_valid_record(rows: Write, tmp_path: Path, real_cli: Cli) -> None:
    # The last two ask a reward model; auto is recorded as what it came to.
    names = [name for name in SEARCHES if name not in ("auto", "arm", "args")]
    source = rows(
        *(row(name, question=QUESTION, settings={"search": {"name": name}}) for name in names)
    )
    said = real_cli("run", source, "-o", tmp_path / "out", "--max-tokens", 40, *DEMO)
    assert said.code == 0
    found = {one["id"]: one for one in records(tmp_path / "out")}
    assert sorted(found) == sorted(names)
    for name, record in found.items():
        validator("realigned").validate(record)
        assert record["model"] == "demo"
        assert record["settings"]["search"]["name"] == name


def test_after_kill_9_a_run_resumes_with_nothing_lost_or_done_twice(
    rows: Write, tmp_path: Path, real_cli: Cli
) -> None:
    questions = [QUESTION, "What could I cook tonight?", "Where should we go this summer?"]
    source = rows(*(row(f"r{i}", question=questions[i % 3], preference=WISH) for i in range(12)))
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    run = ("run", source, "--concurrency", 1, "--n", 2, "--max-tokens", 40, *DEMO)
    process = start(*run, "-o", out)
    deadline = time.monotonic() + 60
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = out.read_bytes()[: out.read_bytes().rindex(b"\n") + 1]
    done = kept.count(b"\n")
    assert 3 <= done < 12

    said = real_cli(*run, "-o", out, "--resume")
    assert said.code == 0
    assert f"{12 - done} rows in" in said.err
    assert out.read_bytes().startswith(kept), "a record that was done was touched"
    assert real_cli(*run, "-o", whole).code == 0
    answers = [[(one["id"], one["text"]) for one in records(path)] for path in (out, whole)]
    assert len(answers[0]) == 12
    assert sorted(answers[0]) == sorted(answers[1])


def test_given_answers_are_scored_as_they_were_when_drawn(rows: Write, real_cli: Cli) -> None:
    greedy = real_cli("ask", QUESTION, "-p", WISH, "--search", "greedy", "--json", *DEMO).object
    [drawn] = greedy["candidates"]
    assert drawn["finish"] == "eos"
    source = rows({"question": QUESTION, "preference": WISH, "response": drawn["text"]})
    said = real_cli("score", source, "--lambda", "20,3", *DEMO)
    assert said.code == 0
    validator("realigned").validate(said.object)
    [given] = said.object["candidates"]
    assert given["tokens"] == drawn["tokens"]
    assert given["score"] == pytest.approx(drawn["score"], abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "no-such/model"), "demo"),
        (("--chat-template", "nowhere.jinja"), "--chat-template"),
        (("--dtype", "float7"), "float7"),
        (("--device", "toaster"), "toaster"),
    ],
)
def test_what_the_model_cannot_do_is_bad_input(
    flags: tuple[object, ...], message: str, real_cli: Cli
) -> None:
    said = real_cli(*ASK, *DEMO, *flags)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("preftilt: error: ")
    assert message in said.err
