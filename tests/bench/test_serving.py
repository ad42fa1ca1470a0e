"""The serving bench: what a row says, who begins, that the endless model is the bundled one but for its end."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from bench.server import LoadResult
from bench.serving.endless import write_endless
from bench.serving.replicas import RoundRobin
from bench.serving.report import load, measured, save
from bench.serving.rows import RatioRow, rotated
from bench.serving.sides import SideFailed, SideProcess
from bench.serving.words import QuestionMaker

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.models import demo_folder
from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import open_tokenizer
from preftilt.types import Sampling, Stream
from tests.replicas.machines import Machine

pytestmark = pytest.mark.model


def test_a_row_is_the_median_of_its_ratios_with_their_quartiles():
    row = RatioRow("proxy", "ours ÷ theirs", 1.05)
    for top, bottom in ((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0), (10.0, 2.0)):
        row.add(top, bottom)
    assert row.cells() == [
        "ours ÷ theirs",
        "≤ 1.05",
        "**3.00** (2.00–4.00, n 5)",
        "3 s",
        "1 s",
    ]


def test_an_aim_may_be_the_least_that_is_wanted():
    row = RatioRow("peer", "theirs ÷ ours", 2.0, at_least=True)
    row.add(5.0, 2.0)
    assert row.cells()[1] == "≥ 2"


def test_what_is_counted_is_told_as_a_count():
    row = RatioRow("replicas", "theirs ÷ ours", None, unit="tokens")
    row.add(60_000, 40_000)
    assert row.cells()[2:] == ["**1.50** (1.50–1.50, n 1)", "60,000 tokens", "40,000 tokens"]


async def test_calls_dealt_in_turn_read_a_prompt_on_every_engine():
    machines = [Machine("a"), Machine("b")]
    engines = [machine.open() for machine in machines]
    engine = RoundRobin(engines, itertools.cycle(engines))
    for seed in range(2):
        stream, sampling = Stream(seed), Sampling()
        request = SampleRequest(
            prompt=(1, 2), slots=(0,), stream=stream, sampling=sampling, max_tokens=4
        )
        await engine.sample([request])
    for completion in ((3,), (4,)):
        await engine.score([ScoreRequest(prompt=(5, 6), completion=completion)])
    assert [machine.prompts for machine in machines] == [[(1, 2), (5, 6)], [(1, 2), (5, 6)]]


def test_every_side_begins_equally_often():
    orders = list(rotated(("a", "b", "c"), 6))
    assert [sum(order[0] == side for order in orders) for side in "abc"] == [2, 2, 2]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_the_endless_model_is_the_bundled_one_with_an_end_that_is_never_drawn(tmp_path: Path):
    folder = write_endless(tmp_path / "endless")
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (Path(demo_folder()) / weights).read_bytes()
    endless = open_tokenizer(str(folder), EngineOptions())
    bundled = open_tokenizer(demo_folder(), EngineOptions())
    assert sorted(endless.vocabulary.eos) == [endless.raw.pad_token_id]
    assert not endless.vocabulary.eos & bundled.vocabulary.eos
    assert endless.raw.get_vocab() == bundled.raw.get_vocab()


def test_questions_have_the_length_that_is_asked_for_and_are_never_the_same():
    words = QuestionMaker(0)
    questions = [words.question(200) for _ in range(4)]
    lengths = [len(words.tokenizer.chat.encode(question)) for question in questions]
    assert all(200 <= length <= 250 for length in lengths)
    assert len({question[:9] for question in questions}) == 4


def test_a_helper_s_noise_is_no_answer_and_its_end_is_an_error(tmp_path: Path):
    said = "import json\nprint('loading …')\nprint(json.dumps({'twice': 2 * json.loads(input())['x']}))\n"
    script = tmp_path / "side.py"
    script.write_text(said, encoding="utf-8")
    side = SideProcess("helper", [sys.executable, str(script)], tmp_path / "side.log")
    try:
        assert side.ask(x=21) == {"twice": 42}
        with pytest.raises(SideFailed, match="helper ended"):
            side.ready()
    finally:
        side.close()


def test_the_report_names_commands_and_keeps_parts_that_are_not_measured_again(tmp_path: Path):
    row = RatioRow("proxy-short", "ours ÷ theirs", 1.05)
    row.add(1.0, 2.0)
    crowd = LoadResult(clients=200, errors=0, mixed=0, p50=0.5, p99=1.25, rate=80.0)
    save(tmp_path, {"proxy": measured("python -m bench.serving", [row], {"vllm": "0.32.0"})})
    parts = load(tmp_path)
    again = measured("python -m bench.serving --parts clients", [], {}, [crowd])
    save(tmp_path, parts | {"clients": again})
    text = (tmp_path / "serving.md").read_text(encoding="utf-8")
    assert "- proxy: `python -m bench.serving`, 20" in text
    assert "vllm 0.32.0" in text
    assert "- clients: `python -m bench.serving --parts clients`, 20" in text
    assert "- peers: not measured" in text
    assert "| ours ÷ theirs | ≤ 1.05 | **0.50** (0.50–0.50, n 1) | 1 s | 2 s |" in text
    assert "| 200 | 0 | 0 | 0.50 s | 1.25 s | 80 |" in text
