"""The experiments on a toy engine: answers are nonsense, but what is picked, counted and kept is exact."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput
from preftilt.eval.benchmarks import BENCHMARKS, open_benchmarks
from preftilt.eval.harness.benchmark import Benchmark, BenchmarkRequest, Case, Opening
from preftilt.eval.report import Heading, Picture, Table, Text, markdown, page
from preftilt.eval.reproduce import collecting, experiments, methods
from preftilt.eval.reproduce.collecting import MeasuredModels
from preftilt.eval.reproduce.figures import draw_figures
from preftilt.eval.reproduce.measured import (
    AnswerCost,
    CostedAnswer,
    ItemMeasurements,
    PoolRatings,
    RecordedAnswer,
    SamplePool,
)
from preftilt.eval.reproduce.methods import ComparedMethod
from preftilt.eval.reproduce.numbers import JudgedItems, table
from preftilt.eval.reproduce.parts import MeasureSettings
from preftilt.eval.reproduce.report import blocks
from preftilt.eval.reproduce.running import ItemCounts, ReproducePlan, reproduce
from preftilt.eval.reproduce.verdicts import picked, settle
from preftilt.messages import Message
from preftilt.testing.toy import WORDS, ToyEngine, ToyTokenizer, hashed_bigrams

ASKED = BenchmarkRequest(messages=(Message("user", "?"),))
ALL = list(experiments.PAPERS)
SPELLED = ToyTokenizer((*WORDS, "Preferred:", "Yes", "No", "yes", "no"))


def answer(text: str, question: float, gain: float, **rest: Any) -> RecordedAnswer:
    known: dict[str, Any] = {"length": 10, "finished": True} | rest
    return RecordedAnswer(text=text, question_logprob=question, preference_gain=gain, **known)


def found(number: int, *answers: RecordedAnswer, **parts: Any) -> ItemMeasurements:
    pool = SamplePool(answers, frozenset({"question"}))
    return ItemMeasurements(Case(f"c{number}", ASKED, {"right": "good"}), pool=pool, **parts)


def right(case: Case, text: str) -> dict[str, float | None]:
    """Exact, and unknown for one text."""
    return {"right": None if text == "unknown" else float(text == case.facts["right"])}


def own_benchmark() -> Benchmark:
    [world] = open_benchmarks((), Opening(limit=3))
    return replace(world, name="own", metrics=("right",), check=right, parts=None, fault=None)


def sight(
    items: Sequence[ItemMeasurements], compared: Sequence[ComparedMethod], folder: Path
) -> JudgedItems:
    own = own_benchmark()
    verdicts = settle(own, picked(compared, items), folder / "verdicts.jsonl")
    return JudgedItems(own, items, verdicts)


# --- methods --------------------------------------------------------------------------


GOOD = answer("good", -9.0, 2.0)
BAD = answer("bad", -5.0, 0.0)
LONG = answer("long", -6.0, 0.5, length=30)


@pytest.mark.parametrize(
    ("method", "picks"),
    [
        (methods.rear(3, 1.0, "sum"), "bad"),
        (methods.rear(3, 3.0, "sum"), "good"),
        (methods.rear(3, 1.0, "mean"), "long"),
        (methods.likelihoods(3, "sum")[0], "bad"),
        (methods.likelihoods(3, "sum")[2], "good"),
        (methods.one_sample(), "long"),
        (methods.rear(2, 3.0, "sum"), "long"),
    ],
)
def test_every_choice_among_samples_is_read_off_one_pool(method: ComparedMethod, picks: str):
    [picked_one] = method.pick(found(0, LONG, BAD, GOOD))
    assert picked_one.text == picks


def test_chance_counts_by_its_mean_where_verdicts_cost_nothing_and_draws_one_elsewhere():
    item = found(0, LONG, BAD, GOOD)
    assert len(methods.random_of(3, 0, exact=True).pick(item)) == 3
    drawn = [methods.random_of(3, seed, exact=False).pick(item) for seed in range(20)]
    assert {len(one) for one in drawn} == {1}
    assert len({one[0].text for one in drawn}) == 3


def test_ratings_choose_the_highest_and_an_answer_without_one_comes_last():
    rated = PoolRatings((None, 0.5, 0.1), AnswerCost(0, 30, 3))
    item = found(0, LONG, BAD, GOOD, ratings={"generative RM": rated})
    method = methods.rated("generative RM", 3)
    assert [one.text for one in method.pick(item)] == ["bad"]
    assert method.missing(item) == 1
    assert method.spent(item) == AnswerCost(50, 30, 3)
    cut = replace(item, pool=SamplePool((LONG, replace(BAD, finished=False), GOOD), frozenset()))
    assert [one.text for one in method.pick(cut)] == ["good"]


def test_votes_take_the_answer_of_most_and_weigh_it_if_asked():
    texts = [("the answer is A", -9), ("the answer is A", -9), ("the answer is B", -1)]
    drawn = [answer(text, score, 0.0) for text, score in texts]
    item = found(0, *drawn)
    assert methods.voted(3, "letter", None).pick(item)[0].text == "the answer is A"
    # 1 + the mean over 10 tokens: 0.1 each for A, 0.9 for B.
    assert methods.voted(3, "letter", 1.0).pick(item)[0].text == "the answer is B"


def test_a_method_costs_the_samples_it_picks_from_and_only_the_scores_it_needs():
    twice = found(0, LONG, BAD, GOOD, GOOD)
    assert methods.rear(4, 3.0, "sum").spent(twice) == AnswerCost(60, 50)
    assert methods.plain(4, "sum").spent(twice) == AnswerCost(60, 0)
    assert methods.random_of(4, 0, exact=True).spent(twice) == AnswerCost(60, 0)
    assert methods.rear(2, 3.0, "sum").spent(twice) == AnswerCost(40, 40)


def test_a_table_compares_on_the_items_that_both_methods_were_measured_on(tmp_path: Path):
    items = [
        found(0, BAD, GOOD, greedy=CostedAnswer(BAD, AnswerCost(10))),
        found(
            1,
            BAD,
            GOOD,
            greedy=CostedAnswer(GOOD, AnswerCost(10)),
            trees={3.0: CostedAnswer(GOOD, AnswerCost(90, 40))},
        ),
        found(2, BAD, GOOD, greedy=CostedAnswer(answer("unknown", 0, 0), AnswerCost(10))),
    ]
    compared = [
        methods.greedy(), methods.rear(2, 3.0, "sum"), methods.trees(3.0, "sum"),
        methods.guided("Amulet"),
    ]  # fmt: skip
    made = table(sight(items, compared, tmp_path), compared, compared[0])
    greedy, best, tree = made["rows"]  # nothing was guided, so there is no row
    assert (greedy["items"], greedy["unjudged"], greedy["metrics"]["right"]["mean"]) == (2, 1, 0.5)
    assert greedy["over"] is None
    assert (best["items"], best["metrics"]["right"]["mean"]) == (3, 1.0)
    assert (best["over"]["difference"]["n"], best["over"]["difference"]["mean"]) == (2, 0.5)
    assert (tree["items"], tree["over"]["difference"]["n"], tree["sampled"]) == (1, 1, 90)
    assert made["comparisons"] == 2


# --- from beginning to end ------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyEngine:
    """The toy engine, where a model would be opened."""
    engine = ToyEngine(
        next_logprobs=hashed_bigrams(1, vocabulary=len(SPELLED.words)), tokenizer=SPELLED
    )
    monkeypatch.setattr(engine.__class__, "close", lambda self: None, raising=False)
    monkeypatch.setattr(collecting, "open_engine", lambda name, options: engine)
    return engine


def plan(folder: Path, **changes: Any) -> ReproducePlan:
    models = MeasuredModels(
        model="toy", options=EngineOptions(), identity={"model": "toy"}, raters={}
    )
    measured: dict[str, Any] = {
        "settings": {"max_tokens": 12}, "pool": 8, "n": 4, "lambdas": (1.0, 20.0), "judge_tokens": 6,
    }  # fmt: skip
    known: dict[str, Any] = {
        "experiments": ALL, "models": models, "inserted": (0, 2), "processes": 1,
        "sizes": ItemCounts(trees=2, rated=3, contexts=3, timed=1), "reference": "greedy",
        "records": folder / "records", "judged_by": None,
    }  # fmt: skip
    names = {field.name for field in fields(MeasureSettings)}
    measured |= {name: value for name, value in changes.items() if name in names}
    rest = {name: value for name, value in changes.items() if name not in names}
    return ReproducePlan(measure=MeasureSettings(**measured), **known | rest)


def report_of(folder: Path, validation: int = 20, **changes: Any) -> dict[str, Any]:
    benchmarks = open_benchmarks(("demo-world",), Opening(limit=4, validation=validation))
    return reproduce(plan(folder, **changes), benchmarks, "preftilt reproduce all", lambda *_: None)


def test_all_experiments_come_from_one_pool_and_nothing_is_measured_twice(
    toy: ToyEngine, tmp_path: Path
):
    first = report_of(tmp_path)
    [world] = first["benchmarks"]
    assert set(world["tables"]) | set(world["figures"]) == set(ALL)
    assert [one["reduction"] for one in world["chosen"]] == ["sum", "mean", "centred"]
    by_method = {(one["method"], one["lam"]): one for one in world["tables"]["table1"]["rows"]}
    assert by_method["DVTS-REAR", 20.0]["items"] == 2
    assert by_method["best-of-4 by generative RM", None]["judged"] > 0
    assert by_method["Amulet", None]["items"] == 4
    assert by_method["greedy", None]["seconds"] > 0
    assert [one["inserted"] for one in world["tables"]["table2"]] == [0, 2]
    assert {row["items"] for one in world["tables"]["table2"] for row in one["rows"]} == {3}
    counts = dict(toy.counts)
    assert report_of(tmp_path) == first
    assert toy.counts == counts


def test_a_killed_run_goes_on_and_gives_the_same_report(toy: ToyEngine, tmp_path: Path):
    fast: dict[str, Any] = {"experiments": ["fig2", "fig4"]}
    whole = report_of(tmp_path, **fast)
    pools = (tmp_path / "records").glob("demo-world-pool-*.jsonl")
    pool = min(pools, key=lambda one: one.read_bytes().count(b"\n"))  # the other is for choosing λ
    lines = pool.read_bytes().splitlines(keepends=True)
    pool.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # a kill in the middle of a write
    before = toy.counts["sampled"]
    assert report_of(tmp_path, **fast) == whole
    assert toy.counts["sampled"] > before
    assert len(pool.read_bytes().splitlines()) == len(lines)


def test_other_settings_never_take_old_records(toy: ToyEngine, tmp_path: Path):
    report_of(tmp_path, experiments=["fig4"])
    before = {one.name for one in (tmp_path / "records").iterdir()}
    counts = toy.counts["sampled"]
    report_of(tmp_path, experiments=["fig4"], settings={"max_tokens": 13})
    assert toy.counts["sampled"] > counts
    assert len({one.name for one in (tmp_path / "records").iterdir()} - before) == 2


def test_a_prompt_that_is_too_long_is_skipped_and_told(toy: ToyEngine, tmp_path: Path):
    toy.max_context = 5
    with pytest.raises(
        BadInput, match="no item of demo-world could be answered: the question prompt"
    ):
        report_of(tmp_path, experiments=["table3"])
    toy.max_context = 512
    assert report_of(tmp_path / "again", experiments=["table3"])["benchmarks"][0]["skipped"] == []


def test_the_report_is_told_and_drawn_from_its_numbers_alone(toy: ToyEngine, tmp_path: Path):
    report = json.loads(json.dumps(report_of(tmp_path), allow_nan=False))
    pictures = draw_figures(report, tmp_path)
    files = [file for each in pictures.values() for file in each]
    assert {name for _, name in pictures} == {"fig2", "fig3", "fig4", "fig5", "fig6"}
    assert all((tmp_path / one).stat().st_size > 10_000 for one in files)
    told = blocks(report, pictures)
    text = markdown(told)
    assert "generate_with full" in text
    assert "reduction sum" in text
    assert "comparisons with greedy; at 5 % for all of them together" in text
    assert "**the paper's numbers**" in text
    assert text.index("| DVTS-REAR | 77.7 |") > text.index("What the paper prints")
    whole = page(told, "title", tmp_path)
    assert whole.count("data:image/png;base64,") == len(files)
    assert "<td>77.7</td>" in whole


def test_blocks_are_the_same_words_in_both_forms(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    told = [
        Heading("A & B"), Text("**bold**, *slanted*, `x < y`"), Picture("a.png", "a picture"),
        Table(["a", "b"], [["1|2", "*3*"]], "said"),
    ]  # fmt: skip
    text = markdown(told)
    assert text == (
        "## A & B\n\n**bold**, *slanted*, `x < y`\n\n![a picture](a.png)\n\n"
        "*said*\n\n| a | b |\n|---|---|\n| 1\\|2 | *3* |\n"
    )
    shown = page(told, "t", tmp_path)
    assert "<h2>A &amp; B</h2>" in shown
    assert "<strong>bold</strong>, <em>slanted</em>, <code>x &lt; y</code>" in shown
    assert "<p><em>said</em></p>" in shown
    assert "<td>1|2</td>\n<td><em>3</em></td>" in shown


# --- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "opening", "says"),
    [
        (("nothing",), Opening(), "benchmark is 'nothing'; it must be one of demo-world"),
        (("pingpong",), Opening(), "turn by turn, .* run inspect eval preftilt/pingpong once"),
        (("demo-world", "demo-world"), Opening(), "named twice"),
        (("prefeval-explicit",), Opening(), "PrefEval needs its data"),
        (("demo-world",), Opening(switches={"box": True}), "no switch 'box'"),
    ],
)
def test_a_benchmark_that_cannot_be_measured_is_refused(names, opening, says):
    with pytest.raises(BadInput, match=says):
        open_benchmarks(names, opening)


def test_experiments_have_names_and_an_order():
    assert experiments.named(["fig4", "table1"]) == ["table1", "fig4"]
    assert experiments.named(["all"]) == ALL
    with pytest.raises(BadInput, match="there is no experiment 'fig7'; there are table1"):
        experiments.named(["fig7"])


def test_inserted_messages_are_about_other_topics_and_take_turns():
    [world] = open_benchmarks((), Opening(limit=5))
    for case in world.test(7):
        *before, question = case.request.messages
        assert [one.role for one in before] == ["user", "assistant"] * 3 + ["user"]
        assert question.content == case.facts["question"]
        assert question.content not in [one.content for one in before]
    with pytest.raises(BadInput, match="fewer than 500"):
        world.test(500)


def test_every_benchmark_of_the_paper_with_text_alone_has_an_entry():
    assert {"prefeval-explicit", "prefeval-choice", "prefeval-persona", "multifaceted"} <= set(
        BENCHMARKS
    )
