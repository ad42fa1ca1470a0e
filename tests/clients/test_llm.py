"""The plugin for ``llm``, in the clients' environment: its command line on the toy engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

import preftilt as pt
from preftilt.testing.toy import ToyEngine
from tests.clients.asking import HERE, PYTHON, REMEDY

pytestmark = pytest.mark.clients

TOY = ["-m", "preftilt/toy", "-o", "max_tokens", "12"]
WISH = ["-o", "preference", "No games."]
QUESTION = "How do I study maths?"
ASKED: dict[str, list[str]] = {
    "guided": [*TOY, *WISH, "-o", "strength", "4", QUESTION],
    "guided whole": [*TOY, *WISH, "-o", "strength", "4", QUESTION, "--no-stream"],
    "picked": [
        *TOY,
        *WISH,
        "-o",
        "search",
        "best-of-n",
        "-o",
        "n",
        "5",
        "-o",
        "seed",
        "3",
        QUESTION,
    ],
    "system": [*TOY, "-s", "No games.", "-o", "strength", "4", QUESTION],
    "plain": [*TOY, "-o", "temperature", "0", QUESTION],
    "again": [*TOY, *WISH, "-c", "And now?"],
    "idle n": [*TOY, "-o", "n", "5", QUESTION],
    "idle strength": [*TOY, "-o", "strength", "5", QUESTION],
    "unknown search": [*TOY, *WISH, "-o", "search", "deep", QUESTION],
    "add": ["preftilt", "add", "Qwen/Qwen3-0.6B"],
    "models": ["models"],
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    assert PYTHON.exists(), f"no llm ({PYTHON}): {REMEDY}"
    folder = str(tmp_path_factory.mktemp("llm"))
    done = subprocess.run(
        [str(PYTHON), str(HERE / "llm_ask.py"), folder, json.dumps([*ASKED.values()])],
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(ASKED, json.loads(done.stdout.splitlines()[-1])["asked"], strict=True))


def answered(*preferences: str, question: list[pt.Message], **settings: Any) -> str:
    """What the library answers."""
    realigner = pt.Realigner(ToyEngine(), pt.Settings(max_tokens=12, **settings))
    wishes = [pt.Preference(text) for text in preferences]
    return asyncio.run(realigner.realign(question, wishes)).text


ASK = [pt.Message("user", QUESTION)]


def test_a_guided_answer_is_the_library_s_and_comes_in_pieces(said: dict[str, Any]) -> None:
    want = answered("No games.", question=ASK, lam=4)
    assert "".join(said["guided"]["pieces"]) == want
    assert len(said["guided"]["pieces"]) > 1
    assert said["guided whole"]["pieces"] == [want]
    assert said["guided whole"]["said"].strip() == want.strip()


def test_an_answer_can_be_picked(said: dict[str, Any]) -> None:
    want = answered("No games.", question=ASK, search=pt.BestOfN(n=5), seed=3)
    assert said["picked"]["pieces"] == [want]


def test_with_a_strength_alone_the_system_prompt_is_the_preference(said: dict[str, Any]) -> None:
    assert said["system"]["pieces"] == said["guided"]["pieces"]


def test_without_either_the_model_answers_as_it_is(said: dict[str, Any]) -> None:
    engine = ToyEngine()
    context = engine.tokenizer.render(ASK)
    tokens: tuple[int, ...] = ()
    while len(tokens) < 12 and 0 not in tokens:
        tokens += (int(engine.next_logprobs(context + tokens).argmax()),)
    assert "".join(said["plain"]["pieces"]) == engine.tokenizer.decode(tokens)


def test_a_conversation_goes_on(said: dict[str, Any]) -> None:
    before = "".join(said["plain"]["pieces"])
    turns = [*ASK, pt.Message("assistant", before), pt.Message("user", "And now?")]
    want = answered("No games.", question=turns)
    assert said["again"]["code"] == 0, said["again"]["said"]
    assert "".join(said["again"]["pieces"]) == want


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("idle n", "n does nothing without a preference (-o preference TEXT)"),
        ("idle strength", "state a preference (-o preference TEXT) or a system prompt (-s)"),
        ("unknown search", "best-of-n"),
    ],
)
def test_what_does_nothing_is_refused_by_name(name: str, words: str, said: dict[str, Any]) -> None:
    assert said[name]["code"] == 1
    assert words in said[name]["said"]
    assert said[name]["pieces"] == []


def test_models_are_listed_and_stay_when_they_are_added(said: dict[str, Any]) -> None:
    assert said["add"]["said"] == "added preftilt/Qwen/Qwen3-0.6B\n"
    for model in ("smollm2", "demo", "Qwen/Qwen3-0.6B"):
        assert f"preftilt: preftilt/{model}\n" in said["models"]["said"]
