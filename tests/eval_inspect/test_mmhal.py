"""MMHal-Bench from pictures to scores, on a toy engine that tells pictures apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage, ContentText
from inspect_ai.solver import generate

from preftilt.eval.benchmarks.mmhal import FOLDER, mmhal
from preftilt.testing.toy import ToyEngine
from tests.eval.mmhal_files import rows, write_pictures, write_rows
from tests.eval_inspect.conftest import Evaluate, means, mock_judge
from tests.eval_inspect.test_benchmarks import samples

FEW: dict[str, Any] = {"n": 4, "settings": {"max_tokens": 8}}


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_pictures(tmp_path)
    return write_rows(tmp_path, rows())


def test_answers_are_rated_by_a_judge_who_knows_what_is_in_the_picture(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    prompts: list[str] = []

    def judging(prompt: str) -> str:
        prompts.append(prompt)
        if "thing 2?" in prompt:
            return "no idea"
        return "Made up. Rating: 1" if "thing 1?" in prompt else "Good. Rating: 5"

    log = evaluate(mmhal(data, **FEW), judge=mock_judge(judging))
    first = samples(log)[0]
    found = means(log)
    assert (found["rating"], found["score"], found["hallucinated"]) == (3.0, 0.5, 0.5)
    assert found["judge_junk"] == 1
    assert any("Tree, Thing 1" in one and "It is thing 1." in one for one in prompts)
    user = first.messages[1]
    assert isinstance(user.content, list)
    assert isinstance(user.content[0], ContentImage)
    assert log.results is not None
    [rated] = [one for one in log.results.scores if one.name == "rating"]
    by_type = {one.name: one.value for one in rated.metrics.values()}
    assert (by_type["attribute"], by_type["adversarial"]) == (5.0, 1.0)


def test_the_benchmarks_own_preset_counts_what_cannot_be_read_as_made_up(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    task = mmhal(data, preset="mmhal", settings={"max_tokens": 8})
    log = evaluate(task, judge=mock_judge(lambda _: "no idea"), limit=2)
    [first, _] = samples(log)
    found = means(log)
    assert (found["rating"], found["hallucinated"], found["judge_junk"]) == (0.0, 1.0, 2)
    assert first.store["preftilt"]["plain"] is True


def test_any_task_with_pictures_runs_under_preftilt(
    toy: ToyEngine, evaluate: Evaluate, tmp_path: Path
) -> None:
    """Inspect hands pictures over in its own messages; the toy engine answers by them."""
    write_pictures(tmp_path, count=2)
    samples_of = [
        Sample(
            input=[
                ChatMessageSystem(content="Be brief."),
                ChatMessageUser(
                    content=[
                        ContentText(text="What is it?"),
                        ContentImage(image=str(tmp_path / FOLDER / "images" / f"id{i}.png")),
                    ]
                ),
            ]
        )
        for i in (0, 1, 1)
    ]
    log = evaluate(
        Task(dataset=samples_of, solver=generate()),
        model_args={"settings": {"search": {"name": "greedy"}, "max_tokens": 8}},
    )
    prompts = [
        [one["question_logprob"] for one in sample.output.metadata["preftilt"]["candidates"]]
        for sample in samples(log)
        if sample.output.metadata
    ]
    assert len(prompts) == 3
    assert prompts[0] != prompts[1] == prompts[2]
