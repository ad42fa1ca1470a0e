"""Whole evaluations on a toy engine: tasks, judges that fail, budgets, any task under preftilt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, system_message

from preftilt.eval.benchmarks.prefeval import (
    prefeval_choice,
    prefeval_explicit,
    prefeval_mcq,
    prefeval_persona,
)
from preftilt.eval.benchmarks.world import demo_world
from preftilt.testing.toy import ToyEngine
from tests.eval_inspect.conftest import JUDGE, Evaluate, means, mock_judge
from tests.eval_inspect.judge_server import JudgeServer

FEW: dict[str, Any] = {"n": 3, "settings": {"max_tokens": 12}}
RULES = JudgeServer()
FAIR = RULES.reply


def samples(log: EvalLog) -> list[EvalSample]:
    assert log.status == "success", log.error
    assert log.samples is not None
    return log.samples


def score_of(sample: EvalSample) -> dict[str, float]:
    assert sample.scores is not None
    [score] = sample.scores.values()
    assert isinstance(score.value, dict)
    return {name: float(one) for name, one in score.value.items() if one is not None}


def test_explicit_answers_are_judged_and_the_log_has_everything(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    log = evaluate(prefeval_explicit(data, lam=3.0, **FEW), judge=mock_judge(FAIR))
    for sample in samples(log):
        text = sample.output.completion
        values = score_of(sample)
        assert values["violates"] == float("thing" in text)
        assert values["acknowledged"] == float("avoid" in text)
        assert values["following"] == float(bool(text.strip()) and "thing" not in text)
        record = sample.store["preftilt"]
        assert record["settings"]["lambda"] == 3.0
        assert len(record["candidates"]) == 3
        assert record["candidates"][0]["text"] == text
        assert record["usage"]["sampled"] > 0
        assert sample.messages[0].role == "system"
        assert sample.messages[0].text == sample.metadata["preference"]
    assert log.eval.metadata is not None
    assert log.eval.metadata["protocol"]["preset"] == "rear-paper"
    assert log.eval.metadata["method"]["settings"]["reduction"] == "sum"
    assert log.eval.metadata["items"] == 66
    assert means(log)["judge_junk"] == 0
    assert toy.counts["sampled"] > 0


def test_the_same_run_gives_the_same_answers(toy: ToyEngine, evaluate: Evaluate, data: str) -> None:
    runs = [evaluate(prefeval_mcq(data, **FEW)) for _ in range(2)]
    first, second = ([one.output.completion for one in samples(log)] for log in runs)
    assert first == second


@pytest.mark.parametrize("form", ["explicit", "choice", "persona"])
def test_multiple_choice_needs_no_judge(
    toy: ToyEngine, evaluate: Evaluate, data: str, form: str
) -> None:
    log = evaluate(prefeval_mcq(data, form=form, **FEW), limit=8)
    for sample in samples(log):
        values = score_of(sample)
        text = sample.output.completion
        assert values["no_choice"] == float("<choice>" not in text)
        [score] = (sample.scores or {}).values()
        assert values["correct"] == float(score.answer == sample.target)
        options = sample.metadata["options"]
        assert options["ABCD".index(str(sample.target))] == "Fits."
    assert 0 <= means(log)["correct"] <= 1


@pytest.mark.parametrize("task", [prefeval_choice, prefeval_persona])
def test_the_benchmarks_own_protocol_runs_on_any_model_as_it_is(
    evaluate: Evaluate, data: str, task: Any
) -> None:
    log = evaluate(
        task(data, preset="prefeval", prompting="reminder", turns=2, checks=2),
        mock_judge(lambda _: "Default output from mockllm/model"),
        judge=mock_judge(FAIR),
    )
    [first, *_] = samples(log)
    texts = [one.text for one in first.messages]
    assert texts[0] == "You are a helpful assistant."
    assert texts[-6:-2] == ["Filler 0.", "Filler 1.", "Filler 2.", "Filler 3."]
    assert means(log)["following"] == 1.0
    assert score_of(first)["inconsistent"] == 0.0  # an answer that does not violate is not
    assert math.isnan(score_of(first)["acknowledged"])


def test_the_model_acknowledges_criticises_and_answers_again(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    task = prefeval_explicit(
        data,
        preset="prefeval",
        prompting="self-critic",
        search="best-of-n",
        n=2,
        settings={"max_tokens": 9},
    )
    [first] = samples(evaluate(task, judge=mock_judge(FAIR), limit=1))
    roles = [one.role for one in first.messages]
    assert roles == ["system"] + ["user", "assistant"] * 4
    assert first.messages[1].text == first.metadata["preference"]
    settings = first.store["preftilt"]["settings"]
    assert (settings["history"], settings["preference_turns"]) == ("preference", 2)


def test_a_method_is_refused_where_the_model_cannot_have_it(evaluate: Evaluate, data: str) -> None:
    log = evaluate(prefeval_mcq(data, lam=3.0), get_model("mockllm/model", memoize=False))
    assert log.status == "error"
    assert log.error is not None
    assert "lambda: mockllm/model is not run by preftilt" in log.error.message


def test_junk_is_no_score_and_is_counted(toy: ToyEngine, evaluate: Evaluate, data: str) -> None:
    judge = mock_judge(lambda prompt: "Who knows?" if "violates" in prompt else FAIR(prompt))
    log = evaluate(prefeval_explicit(data, **FEW), judge=judge)
    for sample in samples(log):
        values = score_of(sample)
        assert math.isnan(values["violates"])
        assert values["judge_junk"] == 1
        assert math.isnan(values["following"]) == bool(sample.output.completion.strip())
        [score] = (sample.scores or {}).values()
        assert score.reason == "grader_failed"
        assert (score.metadata or {})["judgements"]["violation"]["attempts"] == 3
    found = means(log)
    assert math.isnan(found["violates"])
    assert found["judge_junk"] == 3


def test_junk_can_be_read_as_the_benchmarks_code_reads_it(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    task = prefeval_explicit(data, switches={"judge_junk": "official"}, **FEW)
    log = evaluate(task, judge=mock_judge(lambda _: "Who knows?"))
    found = means(log)
    assert (found["following"], found["acknowledged"], found["violates"]) == (1.0, 0.0, 0.0)
    assert found["judge_junk"] == 9


def test_a_judge_that_fails_is_asked_again_and_then_recorded(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    def out_of_order(prompt: str) -> str:
        raise RuntimeError("no quota left")

    log = evaluate(
        prefeval_explicit(data, checks=2, **FEW), judge=mock_judge(out_of_order), limit=1
    )
    [sample] = samples(log)
    assert score_of(sample)["judge_failed"] == 2
    [score] = (sample.scores or {}).values()
    assert "no quota left" in (score.explanation or "")
    assert math.isnan(means(log)["following"])


def test_a_judge_that_recovers_is_believed(toy: ToyEngine, evaluate: Evaluate, data: str) -> None:
    asked: dict[str, int] = {}

    def at_the_second_attempt(prompt: str) -> str:
        asked[prompt] = asked.get(prompt, 0) + 1
        return FAIR(prompt) if asked[prompt] > 1 else "Hm?"

    judge = mock_judge(at_the_second_attempt)
    log = evaluate(prefeval_explicit(data, checks=2, **FEW), judge=judge, limit=1)
    assert means(log)["judge_junk"] == 0
    assert set(asked.values()) == {2}


def test_judge_calls_have_a_budget_and_the_run_ends_in_order(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    log = evaluate(
        prefeval_explicit(data, checks=2, max_judge_calls=4, **FEW), judge=mock_judge(FAIR)
    )
    scored = [one for one in samples(log) if score_of(one)["over_budget"] == 0]
    assert means(log)["over_budget"] == 2
    assert len(scored) >= 1


def test_tokens_have_a_budget_and_what_is_left_is_not_asked(
    toy: ToyEngine, evaluate: Evaluate, data: str
) -> None:
    log = evaluate(prefeval_mcq(data, max_tokens_total=0, **FEW))
    assert means(log)["over_budget"] == 3
    assert math.isnan(means(log)["correct"])
    assert toy.counts["sampled"] == 0
    [score] = (samples(log)[0].scores or {}).values()
    assert "raise max_tokens_total" in (score.explanation or "")


def test_a_judge_behind_an_api_is_cached_and_what_is_missing_is_asked_again(
    toy: ToyEngine, evaluate: Evaluate, data: str, judge: JudgeServer
) -> None:
    model = get_model(JUDGE, memoize=False)
    first = evaluate(prefeval_explicit(data, checks=2, **FEW), judge=model)
    asked = judge.asked
    again = evaluate(prefeval_explicit(data, checks=2, max_judge_calls=0, **FEW), judge=model)
    assert asked == 2 * 3
    assert judge.asked == asked
    assert means(again) == pytest.approx(means(first), nan_ok=True)


@pytest.mark.parametrize("task", [prefeval_explicit, prefeval_choice, prefeval_persona])
@pytest.mark.parametrize("trouble", ["nobody listens", "another key"])
def test_a_judge_that_cannot_be_asked_ends_the_run_before_anything_is_drawn(
    toy: ToyEngine,
    evaluate: Evaluate,
    data: str,
    judge: JudgeServer,
    monkeypatch: pytest.MonkeyPatch,
    task: Callable[..., Task],
    trouble: str,
) -> None:
    monkeypatch.setenv("STANDIN_API_KEY", "mine")
    judge.key = "another"
    if trouble == "nobody listens":
        monkeypatch.setenv("STANDIN_BASE_URL", "http://127.0.0.1:9/v1")
    model = get_model(JUDGE, memoize=False, config=GenerateConfig(max_retries=0))
    log = evaluate(task(data, **FEW), judge=model)
    assert log.status == "error"
    assert log.error is not None
    assert f"the judge {JUDGE} cannot be asked: " in log.error.message
    assert {"nobody listens": "APIConnectionError", "another key": "no such key"}[
        trouble
    ] in log.error.message
    assert "mine" not in log.error.message
    assert judge.asked == 0
    assert judge.contacts == (trouble == "another key")
    assert toy.counts["sampled"] == 0


def test_a_judge_is_asked_once_whether_it_is_there_and_not_where_it_may_not_be_asked(
    toy: ToyEngine, evaluate: Evaluate, data: str, judge: JudgeServer
) -> None:
    model = get_model(JUDGE, memoize=False)
    evaluate(prefeval_explicit(data, checks=2, **FEW), judge=model)
    assert judge.contacts == 1
    log = evaluate(prefeval_explicit(data, max_judge_calls=0, **FEW), judge=model)
    assert log.status == "success"
    assert judge.contacts == 1


def test_the_demo_world_runs_by_name(toy: ToyEngine, evaluate: Evaluate) -> None:
    log = evaluate("preftilt/demo_world", task_args={"n": 2, "settings": {"max_tokens": 9}})
    assert [set(score_of(one)) for one in samples(log)] == [
        {"following", "helpful", "violates", "over_budget"}
    ] * 3
    assert means(log)["helpful"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [({"split": "exam"}, "split is 'exam'"), ({"n": 0}, "greater than or equal to 1")],
)
def test_arguments_that_cannot_be_stop_before_anything_is_asked(
    arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(PrerequisiteError, match=problem):
        demo_world(**arguments)


# Any task under preftilt


def any_task(**metadata: object) -> Task:
    sample = Sample(input="What now?", target="Rest", metadata=metadata)
    return Task(
        dataset=[sample], solver=[system_message("No boats."), generate()], scorer=includes()
    )


def test_the_system_message_of_any_task_can_be_the_preference(
    toy: ToyEngine, evaluate: Evaluate
) -> None:
    log = evaluate(any_task(), model_args={"lam": 5, "n": 4}, max_tokens=11)
    [sample] = samples(log)
    record = (sample.output.metadata or {})["preftilt"]
    assert record["settings"]["preferences"] == [{"text": "No boats.", "strength": 5.0}]
    assert record["settings"]["max_tokens"] == 11
    assert len(record["candidates"]) == 4


@solver
def asks_twice() -> Solver:
    """Asks the same question two times."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        outputs = [await get_model().generate(state.messages) for _ in range(2)]
        state.store.set("answers", [output.completion for output in outputs])
        state.output = outputs[-1]
        return state

    return solve


@pytest.mark.parametrize("arguments", [{}, {"preference_from": "none"}])
def test_every_sample_of_any_task_has_random_numbers_of_its_own_in_every_epoch(
    toy: ToyEngine, evaluate: Evaluate, arguments: dict[str, str]
) -> None:
    questions = [Sample(input="What now?", target="Rest") for _ in range(3)]
    task = Task(
        dataset=questions,
        solver=[system_message("No boats."), asks_twice()],
        scorer=includes(),
        epochs=4,
    )
    arguments = {"search": "sample", **arguments}
    first, second = (
        {
            (sample.id, sample.epoch): sample.store["answers"]
            for sample in samples(evaluate(task, model_args=arguments, max_tokens=12))
        }
        for _ in range(2)
    )
    assert first == second
    answers = [answer for pair in first.values() for answer in pair]
    assert len(answers) == 3 * 4 * 2
    assert len(set(answers)) > 18  # The same stream would give one; short answers happen twice.


def test_the_samples_metadata_can_have_the_preference(toy: ToyEngine, evaluate: Evaluate) -> None:
    arguments = {"preference_from": "metadata", "search": "sample"}
    log = evaluate(any_task(preference="No puns."), model_args=arguments, max_tokens=11)
    record = (samples(log)[0].output.metadata or {})["preftilt"]
    assert record["settings"]["preferences"][0]["text"] == "No puns."
    missing = evaluate(any_task(), model_args=arguments)
    assert missing.error is not None
    assert 'has no text "preference"' in missing.error.message


def test_without_a_preference_the_model_answers_as_it_is(
    toy: ToyEngine, evaluate: Evaluate
) -> None:
    log = evaluate(any_task(), model_args={"preference_from": "none"}, max_tokens=11)
    [sample] = samples(log)
    assert (sample.output.metadata or {})["preftilt"]["plain"] is True
    assert sample.output.usage is not None
    assert sample.output.usage.output_tokens <= 11


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"preference_from": "hearsay"}, "preference_from is 'hearsay'"),
        ({"lamda": 3}, "preftilt has no model argument 'lamda'"),
        ({"search": "beam"}, "settings:"),
        ({"base_url": "http://127.0.0.1:1"}, "name the server in the model"),
    ],
)
def test_model_arguments_that_there_are_not_are_refused(
    toy: ToyEngine, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(PrerequisiteError, match=problem):
        get_model("preftilt/toy", memoize=False, **arguments)


def test_generation_options_that_preftilt_has_not_are_refused(
    toy: ToyEngine, evaluate: Evaluate
) -> None:
    task = any_task()
    task.config = GenerateConfig(stop_seqs=["x"])  # Inspect's own is shared by all tasks
    log = evaluate(task)
    assert log.error is not None
    assert "preftilt has no generation option 'stop_seqs'" in log.error.message
