"""Inspect in the tests: its folders in a temporary one, a toy engine as preftilt's model, mock models as judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspect_ai import Task, eval
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model, ModelOutput, ModelUsage, get_model

from preftilt.eval import provider
from preftilt.eval.harness.judge import FIRST_QUESTION
from preftilt.testing.toy import ToyEngine, ToyTokenizer, hashed_bigrams
from tests.eval_inspect.fixtures import write_prefeval
from tests.eval_inspect.judge_server import JudgeServer, served

WORDS = (
    "<end>", "\n", "I avoid it. ", "Take the thing. ", "Take a walk. ", "Rest. ", "<choice>A</choice>",
    "<choice>B</choice>", "Hm. ", "So. ", ".", " ",
)  # fmt: skip

Evaluate = Callable[..., EvalLog]
Judging = Callable[[str], str]


@pytest.fixture(autouse=True)
def inspect_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or written to the user's own folders."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "INSPECT_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyEngine:
    """``preftilt/toy``: the toy engine behind the real provider."""
    engine = ToyEngine(
        next_logprobs=hashed_bigrams(0, vocabulary=len(WORDS)), tokenizer=ToyTokenizer(WORDS)
    )
    monkeypatch.setattr(provider, "open_engine", lambda name, options: engine)
    return engine


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Runs a task on a model as ``inspect eval`` does, quietly; gives its log."""

    def run(
        task: Task | str,
        model: str | Model = "preftilt/toy",
        *,
        judge: Model | None = None,
        interrogator: Model | None = None,
        limit: int | None = 3,
        task_args: dict[str, Any] | None = None,
        model_args: dict[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> EvalLog:
        name = (
            model
            if isinstance(model, Model)
            else get_model(model, memoize=False, **(model_args or {}))
        )
        roles = {"judge": judge, "interrogator": interrogator}
        [log] = eval(
            task,
            model=name,
            model_roles={name: one for name, one in roles.items() if one is not None},
            task_args=task_args or {},
            limit=limit,
            log_dir=str(tmp_path / "logs"),
            display="none",
            max_tokens=max_tokens,
        )
        return log

    return run


@pytest.fixture
def data(tmp_path: Path) -> str:
    """PrefEval's layout with texts of our own."""
    return str(write_prefeval(tmp_path))


JUDGE = "openai-api/standin/judge"
"""What Inspect calls the judge of the fixture ``judge``."""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """A judge behind an API, which :data:`JUDGE` asks."""
    monkeypatch.setenv("STANDIN_API_KEY", "none")
    with served(JudgeServer()) as running:
        monkeypatch.setenv("STANDIN_BASE_URL", running.address)
        yield running


def mock_judge(judging: Judging) -> Model:
    """A judge that says what ``judging`` makes of a prompt; stands in for an API model, which cannot run here.

    Asked whether it is there, it is.
    """

    def say(messages: list[object], *_: object) -> ModelOutput:
        prompt: str = messages[-1].text  # pyright: ignore[reportAttributeAccessIssue]
        output = ModelOutput.from_content(
            "judge", "OK" if prompt == FIRST_QUESTION else judging(prompt)
        )
        # Without a usage Inspect would count tokens with tables that it fetches from the network.
        output.usage = ModelUsage(input_tokens=10, output_tokens=1, total_tokens=11)
        return output

    return get_model("mockllm/judge", custom_outputs=say, memoize=False, config=GenerateConfig())


def means(log: EvalLog) -> dict[str, float]:
    """The log's headline numbers: means, and totals of what is counted."""
    assert log.results is not None
    found = {}
    for score in log.results.scores:
        named = {name.removeprefix("preftilt/"): one.value for name, one in score.metrics.items()}
        found[score.name] = named.get("average", named.get("total", np.nan))
    return found
