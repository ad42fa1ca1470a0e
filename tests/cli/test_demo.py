"""The command line with the bundled model: nothing replaced. A killed run and its resumption: test_process.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from preftilt.search import SEARCHES
from tests.cli.conftest import Cli, records, row
from tests.cli.test_schema import validator

pytestmark = pytest.mark.model

Write = Callable[..., Path]
QUESTION = "What are some enjoyable ways to study maths?"
WISH = "I dislike gamification."
DEMO = ("--model", "demo")
ASK = ("ask", QUESTION, "--preference", WISH, "--max-tokens", 40)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "80")


def test_one_question_the_whole_way(tmp_path: Path, real_cli: Cli) -> None:
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
    said = real_cli("ask", QUESTION, "--preference", WISH, "--n", 8, *flags, *DEMO)
    assert (said.code, said.err) == (0, "")
    for part in ("Realigned answer:", "The model alone", "What λ does", "most for it:"):
        assert part in said.out
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
