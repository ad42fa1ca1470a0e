"""Multifaceted Bench, mathematics and PingPong from data to scores, on a toy engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspect_ai.log import EvalLog, EvalSample

from preftilt.eval import provider
from preftilt.eval.benchmarks.maths import aime24
from preftilt.eval.benchmarks.multifaceted import multifaceted
from preftilt.eval.benchmarks.pingpong import pingpong
from preftilt.eval.stats import mean_interval
from preftilt.rivals.votes import final_answer
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams
from tests.eval.pingpong_file import settings_v2, write_settings
from tests.eval.test_maths import aime, write
from tests.eval.test_multifaceted import lines, row
from tests.eval_inspect.conftest import Evaluate, means, mock_judge

FEW: dict[str, Any] = {"n": 4, "settings": {"max_tokens": 8}}
TWO = r"\frac{4}{2}"
"""Right where the answer is 2, as only mathematics can tell."""

NUMBERS = ("<end>", "\n", r"\boxed{1}", rf"\boxed{{{TWO}}}", "So. ", "Hm. ", ".", " ")


def samples(log: EvalLog) -> list[EvalSample]:
    assert log.status == "success", log.error
    assert log.samples is not None
    return log.samples


def test_every_rubric_is_graded_and_an_unreadable_grade_is_counted(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
) -> None:
    def judging(prompt: str) -> str:
        return "no idea" if "wish 3?" in prompt else "Feedback: fine. [RESULT] 4"

    data = lines(tmp_path / "data", [row(0), row(1)])
    log = evaluate(multifaceted(data, **FEW), judge=mock_judge(judging))
    first = samples(log)[0]
    found = means(log)
    assert (found["score"], found["rating"], found["judge_junk"]) == (0.8, 4.0, 2)
    assert first.messages[0].text == "You like wish 0."
    assert first.scores is not None
    [score] = first.scores.values()
    assert (score.metadata or {})["grades"] == {f"rubric {i}": 4 for i in (1, 2, 3)} | {
        "rubric 4": None
    }
    assert (log.eval.metadata or {})["protocol"]["judge_sees_system"] is True


def test_three_judge_runs_are_asked_three_times(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
) -> None:
    asked: list[str] = []

    def judging(prompt: str) -> str:
        asked.append(prompt)
        return f"[RESULT] {1 + len(asked) % 3}"

    data = lines(tmp_path / "data", [row(0), row(1)])
    task = multifaceted(data, switches={"judge_runs": 3}, **FEW)
    log = evaluate(task, judge=mock_judge(judging), limit=1)
    assert samples(log)
    assert len(asked) == 12
    assert means(log)["rating"] == 2.0


def test_every_choice_is_measured_on_one_pool_and_an_item_counts_once_however_often_answered(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logprobs = hashed_bigrams(0, vocabulary=len(NUMBERS))
    engine = ToyEngine(next_logprobs=logprobs, tokenizer=ToyTokenizer(NUMBERS))
    monkeypatch.setattr(provider, "open_engine", lambda name, options: engine)
    task = aime24(write(tmp_path, "aime24.jsonl", aime(30, "2")), **FEW)
    assert task.epochs == 10
    task.epochs = 2
    log = evaluate(task, limit=3)
    answered = samples(log)
    names = {"correct", "greedy", "majority", "weighted", "rear", "any", "sample_2", "weighted_1"}
    assert names <= set(means(log))
    texts, verdicts = set(), set()
    of_item: dict[int | str, list[float]] = {}
    for sample in answered:
        assert sample.scores is not None
        [score] = sample.scores.values()
        assert isinstance(score.value, dict)
        numbers: dict[str, Any] = score.value
        of_item.setdefault(sample.id, []).append(numbers["correct"])
        # The greedy answer is the same in every epoch.
        assert np.isfinite(numbers["greedy"]) == (sample.epoch == 1)
        # The method of the protocol is the weighted vote, so both must come to the same end.
        assert score.value["correct"] == score.value["weighted"]
        answer = final_answer(sample.output.completion)
        assert score.value["correct"] == float(answer == TWO)
        assert score.value["any"] == max(
            float(final_answer(one["text"]) == TWO)
            for one in sample.store["preftilt"]["candidates"]
        )
        texts.add((sample.id, sample.output.completion))
        verdicts.add(score.value["correct"])
    assert len(answered) == 6
    assert len(texts) > 1
    assert verdicts == {0.0, 1.0}
    expected = mean_interval(np.array([np.mean(each) for each in of_item.values()]))
    assert measured(log, "correct") == {
        "average": expected.mean, "low": expected.low, "high": expected.high, "items": 3,
    }  # fmt: skip
    assert measured(log, "greedy")["items"] == 3


def measured(log: EvalLog, name: str) -> dict[str, float]:
    """All that the log says about one of its numbers."""
    assert log.results is not None
    [found] = [one for one in log.results.scores if one.name == name]
    return {name.removeprefix("preftilt/"): one.value for name, one in found.metrics.items()}


def test_a_dialogue_is_held_turn_by_turn_and_rated_as_a_whole(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
) -> None:
    prompts: list[str] = []

    def judging(prompt: str) -> str:
        prompts.append(prompt)
        scores = {"in_character_score": 5, "entertaining_score": 3, "fluency_score": 1}
        return json.dumps({"scores": [{"is_refusal": False, **scores}] * 4})

    def asking(prompt: str) -> str:
        asked = 1 + prompt.count("User: ")
        words = f"Question {asked}?"
        return words if asked == 3 else json.dumps({"next_utterance": words})

    data = write_settings(tmp_path, settings_v2())
    task = pingpong(data, **FEW)
    log = evaluate(task, judge=mock_judge(judging), interrogator=mock_judge(asking), limit=1)
    found = means(log)
    assert (found["score"], found["in_character"], found["refused"]) == (3.0, 5.0, 0.0)
    assert (found["raw_turns"], found["broken"]) == (1, 0)
    [sample] = samples(log)
    said = sample.store["preftilt:dialogue"]
    assert [one["role"] for one in said] == ["assistant", *["user", "assistant"] * 4]
    assert said[0]["content"] == "Halt!"
    assert [one["content"] for one in said[1::2]] == [f"Question {i}?" for i in (1, 2, 3, 4)]
    records = sample.store["preftilt:turns"]
    assert [one["candidates"][0]["text"] for one in records] == [
        one["content"] for one in said[2::2]
    ]
    assert "Turn 4\nUser: " in prompts[0]
    assert "You guard gate 0." in prompts[0]


def test_a_user_who_says_nothing_ends_the_dialogue_without_a_score(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
) -> None:
    data = write_settings(tmp_path, settings_v2())
    log = evaluate(
        pingpong(data, language="ru", **FEW),
        judge=mock_judge(lambda _: "great"),
        interrogator=mock_judge(lambda _: " "),
        limit=1,
    )
    [sample] = samples(log)
    assert means(log)["broken"] == 1
    assert sample.scores is not None
    [score] = sample.scores.values()
    assert score.reason == "dialogue_broken"
    assert "said nothing in turn 1" in (score.explanation or "")


def test_a_judge_that_never_answers_in_json_leaves_no_score(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
) -> None:
    data = write_settings(tmp_path, settings_v2())
    task = pingpong(data, switches={"turns": 1}, **FEW)
    user = mock_judge(lambda _: "Why?")
    log = evaluate(task, judge=mock_judge(lambda _: "great"), interrogator=user, limit=2)
    assert means(log)["judge_junk"] == 2
    for sample in samples(log):
        assert sample.scores is not None
        assert [score.reason for score in sample.scores.values()] == ["grader_failed"]
