"""Verdicts of a judge, by the benchmark's own Inspect scorer: every answer that was picked is a sample to it.

So judges are asked, retried, cached and logged as in the benchmark's task, and ``inspect view`` shows what they said.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from preftilt.errors import BadInput, MissingPackage, PreftiltError
from preftilt.eval.harness.budget import Budget
from preftilt.eval.reproduce.benchmark import AnswerVerdict, Case, JudgeAll, Opening

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.scorer import Scorer
    from inspect_ai.solver import Solver

AT_ONCE = 400
"""Answers in one evaluation: what is lost if it is killed, but for what the judge's cache keeps."""

COUNTS = ("judge_junk", "judge_failed", "over_budget")


def judged_by(name: str, scorer: Callable[[Budget], Scorer], opening: Opening) -> JudgeAll:
    """Has answers judged by ``scorer``, within one budget for all; refuses at once if there is no judge to ask."""
    if opening.judge is None:
        raise BadInput(
            f"{name} needs a judge: name an Inspect model with --judge (the paper's is openai/gpt-4.1)"
        )
    if find_spec("inspect_ai") is None:
        raise MissingPackage('judges are asked by Inspect: pip install "preftilt[eval]"')
    judge = opening.judge
    budget = Budget(max_judge_calls=opening.max_judge_calls)

    def judge_all(answers: Sequence[tuple[Case, str]]) -> list[AnswerVerdict]:
        return _judge(name, answers, scorer(budget), judge, opening.logs)

    return judge_all


def check_judge(judge: str) -> None:
    """Ask an Inspect model one short question; raises :class:`~preftilt.errors.PreftiltError` if it does not answer."""
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.model import get_model

    from preftilt.eval.harness.judge_client import probe_judge

    async def ask() -> None:
        async with get_model(judge, memoize=False) as model:
            await probe_judge(model)

    try:
        asyncio.run(ask())
    except PrerequisiteError as failure:
        raise PreftiltError(f"the judge {judge} cannot be asked: {failure.message}") from failure


def _judge(
    name: str, answers: Sequence[tuple[Case, str]], scorer: Scorer, judge: str, logs: str
) -> list[AnswerVerdict]:
    from inspect_ai import Task, eval
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import get_model

    samples = [
        Sample(
            id=number,
            input=str(case.facts.get("question", case.request.messages[-1].content)),
            target=str(case.facts.get("target", "")),
            metadata={**case.facts, "item": case.id, "given_answer": text},
        )
        for number, (case, text) in enumerate(answers, start=1)
    ]
    task = Task(
        dataset=MemoryDataset(samples, name=name), solver=_given_answer(), scorer=scorer, name=name
    )
    try:
        [log] = eval(
            task,
            model=None,
            model_roles={"judge": get_model(judge, memoize=False)},
            log_dir=logs,
            display="none",
            fail_on_error=False,
        )
    except PrerequisiteError as failure:
        raise PreftiltError(f"the judge {judge} cannot be asked: {failure}") from failure
    return _verdicts(log, judge, len(answers))


def _given_answer() -> Solver:
    """Puts the answer that was picked where a scorer looks for the model's."""
    from inspect_ai.model import ModelOutput
    from inspect_ai.solver import Generate, TaskState, solver

    @solver
    def given_answer() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            state.output = ModelOutput.from_content("given", state.metadata["given_answer"])
            return state

        return solve

    return given_answer()


def _verdicts(log: EvalLog, judge: str, count: int) -> list[AnswerVerdict]:
    if log.status != "success" or log.samples is None or len(log.samples) != count:
        why = log.error.message if log.error is not None else log.status
        raise PreftiltError(f"the judge {judge} could not be asked ({why}); see {log.location}")
    ordered = sorted(log.samples, key=lambda sample: int(sample.id))
    return [_verdict(sample) for sample in ordered]


def _verdict(sample: EvalSample) -> AnswerVerdict:
    if sample.error is not None or not sample.scores:
        why = "not scored" if sample.error is None else sample.error.message
        return AnswerVerdict({}, failure=why)
    [score] = sample.scores.values()
    values: dict[str, Any] = score.value if isinstance(score.value, dict) else {}
    said = (score.metadata or {}).get("judgements", {})
    return AnswerVerdict(
        {name: _number(value) for name, value in values.items() if name not in COUNTS},
        calls=sum(int(judgement["attempts"]) for judgement in said.values()),
        failure=score.explanation if any(values.get(name) for name in COUNTS) else None,
    )


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(float(value)) else float(value)
