"""Solvers: how a benchmark's request gets its answer inside an Inspect task, with preftilt or with any other model."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalSample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.api import Settings
from preftilt.errors import PreftiltError
from preftilt.eval.harness.benchmark import (
    AnswerVerdict,
    BenchmarkRequest,
    Case,
    TaskMethod,
    patched,
    read_request,
)
from preftilt.eval.harness.budget import COUNTS, Budget, BudgetSpent, JudgeSettings
from preftilt.eval.harness.judge import SPENT, InspectJudge, JudgeProbe
from preftilt.eval.provider import EXTRAS_KEY, SETTINGS, PreftiltAPI, TaskExtras, item_of
from preftilt.messages import Message

RECORD = "preftilt"
"""Where in a sample's store the record of its answer is: settings, candidates, scores, usage."""


def chat(messages: Sequence[Message]) -> list[ChatMessage]:
    """A conversation as Inspect's messages."""
    kinds = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    return [kinds[message.role](content=_content(message)) for message in messages]


def _content(message: Message) -> str | list[Content]:
    if not message.images:
        return message.content
    return [
        ContentText(text=part) if isinstance(part, str) else ContentImage(image=part.data_url())
        for part in message.parts()
    ]


def samples(cases: Iterable[Case]) -> list[Sample]:
    """Inspect's samples; the request travels in their metadata, with what answers are judged by.

    A question about pictures stands there by itself: a hundred pictures would fill the memory.
    """
    return [
        Sample(
            id=case.id,
            input=case.request.messages[-1].content
            if any(message.images for message in case.request.messages)
            else chat(case.request.conversation()),
            target=case.target,
            metadata={"request": case.request.to_json(), **case.facts},
        )
        for case in cases
    ]


def make_task(
    name: str,
    dataset: Sequence[Sample],
    *,
    method: TaskMethod,
    budget: Budget,
    scorer: Scorer,
    solver: Solver | None = None,
    judge: JudgeSettings | None = None,
    epochs: int | None = None,
    **about: Any,
) -> Task:
    """The task, with the method, the judge and ``about``, for logs and reports, in its metadata.

    solver: what makes the answers; None is :func:`answer`.
    """
    of_judge = {} if judge is None else {"judge": asdict(judge)}
    return Task(
        dataset=MemoryDataset(list(dataset), name=name),
        setup=ready(None if judge is None else InspectJudge(judge, budget), method),
        solver=solver or answer(method.to_json(), budget),
        scorer=scorer,
        epochs=epochs,
        metadata={"method": method.to_json(), **of_judge, **about},
    )


@solver
def answer(method: dict[str, Any], budget: Budget | None = None) -> Solver:
    """Answers ``metadata["request"]`` by a method (``TaskMethod.to_json``); the record goes to the sample's store."""
    how = TaskMethod(settings=method["settings"], chosen=tuple(method["chosen"]))
    limits = budget or Budget()

    async def work(state: TaskState) -> None:
        await answer_request(state, read_request(state.metadata["request"]), how, limits)

    return within(limits, work)


@solver
def ready(judge: InspectJudge | None, method: TaskMethod) -> Solver:
    """Refuses what cannot work before the first token: a judge that does not answer, a method the model has not."""
    contact = None if judge is None else JudgeProbe(judge)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        _check_method(get_model(), method)
        if contact is not None:
            await contact.check()
        return state

    return solve


def within(budget: Budget, work: Callable[[TaskState], Awaitable[None]]) -> Solver:
    """Does the work if the budget allows; if not, the sample ends there, without an answer and saying why."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        try:
            budget.check_tokens()
            await work(state)
        except BudgetSpent as spent:
            state.store.set(SPENT, str(spent))
            state.completed = True
        return state

    return solve


async def answer_request(
    state: TaskState,
    request: BenchmarkRequest,
    method: TaskMethod,
    budget: Budget,
    *,
    part: str = "",
) -> str:
    """Answer a request by the method; output, messages and record of ``state`` are those of the answer.

    ``part`` names one of several answers of an item, so that each has its own randomness.
    """
    # What the user's settings say about prompts; the benchmark's own choices stand in the request already.
    base = Settings(prompt=request.prompt)
    request = replace(request, prompt=patched(base, method.settings).prompt)
    output = await _generate(get_model(), state, request, method, budget, part)
    state.messages = chat(request.conversation())
    state.messages.append(output.message)
    state.output = output
    state.store.set(RECORD, (output.metadata or {}).get(EXTRAS_KEY))
    return output.completion


async def say(
    state: TaskState,
    messages: Sequence[Message],
    budget: Budget,
    *,
    settings: dict[str, Any],
    part: str,
    role: str | None = None,
) -> str:
    """What the model under test says to a conversation by itself, without any method: a turn, a critique, …

    ``role`` has the model of that role speak instead, if the run names one (``--model-role ROLE=MODEL``).
    """
    plain = BenchmarkRequest(messages=tuple(messages))
    method = TaskMethod(settings=settings)
    output = await _generate(get_model(role=role), state, plain, method, budget, part)
    return output.completion


async def _generate(
    model: Model,
    state: TaskState,
    request: BenchmarkRequest,
    method: TaskMethod,
    budget: Budget,
    part: str,
) -> ModelOutput:
    budget.check_tokens()
    _check_method(model, method)
    item = item_of(state.sample_id, state.epoch, part)
    if isinstance(model.api, PreftiltAPI):
        knob = TaskExtras(request, method.settings, item, fit="max_tokens" not in method.chosen)
        config = GenerateConfig(extra_body={EXTRAS_KEY: knob.to_json()})
    else:
        # Sampling for a model that is not preftilt's: the protocol's, below what the run says itself.
        own = {name: method.settings.get(name) for name in SETTINGS}
        if (method.settings.get("search") or {}).get("name") in ("greedy", "best-of-n", "dvts"):
            own["temperature"] = 0.0
        said = model.config.model_dump(exclude_none=True)
        config = GenerateConfig(**{name: each for name, each in own.items() if name not in said})
    output = await model.generate(chat(request.conversation()), config=config)
    if output.usage is not None:
        budget.spend(output.usage.total_tokens)
    return output


def _check_method(model: Model, method: TaskMethod) -> None:
    """A method needs a model that scores; other models are measured as they are."""
    if method.chosen and not isinstance(model.api, PreftiltAPI):
        raise PrerequisiteError(
            f"{', '.join(method.chosen)}: {model} is not run by preftilt, so it can only be measured as it is;"
            " leave these arguments out or take --model preftilt/…"
        )


@solver
def given_answer() -> Solver:
    """Puts an answer that was picked before where a scorer looks for the model's."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = ModelOutput.from_content("given", state.metadata["given_answer"])
        return state

    return solve


def judge_answers(
    name: str, answers: Sequence[tuple[Case, str]], scorer: Scorer, judge: str, logs: str
) -> list[AnswerVerdict]:
    """Verdicts of a judge, by a benchmark's own scorer: every answer that was picked is a sample to it.

    So judges are asked, retried, cached and logged as in the benchmark's task, and ``inspect view`` shows what they
    said.
    """
    dataset = [
        Sample(
            id=number,
            input=str(case.facts.get("question", case.request.messages[-1].content)),
            target=case.target,
            metadata={**case.facts, "item": case.id, "given_answer": text},
        )
        for number, (case, text) in enumerate(answers, start=1)
    ]
    task = Task(
        dataset=MemoryDataset(dataset, name=name), solver=given_answer(), scorer=scorer, name=name
    )
    try:
        [log] = inspect_eval(
            task,
            model=None,
            model_roles={"judge": get_model(judge, memoize=False)},
            log_dir=logs,
            display="none",
            fail_on_error=False,
        )
    except PrerequisiteError as failure:
        raise PreftiltError(f"the judge {judge} cannot be asked: {failure}") from failure
    if log.status != "success" or log.samples is None or len(log.samples) != len(answers):
        why = log.error.message if log.error is not None else log.status
        raise PreftiltError(f"the judge {judge} could not be asked ({why}); see {log.location}")
    return [_verdict(sample) for sample in sorted(log.samples, key=lambda each: int(each.id))]


def _verdict(sample: EvalSample) -> AnswerVerdict:
    if sample.error is not None or not sample.scores:
        why = "not scored" if sample.error is None else sample.error.message
        return AnswerVerdict({}, failure=why)
    [score] = sample.scores.values()
    values: dict[str, Any] = score.value if isinstance(score.value, dict) else {}
    said = (score.metadata or {}).get("judgements", {})
    return AnswerVerdict(
        {
            name: None if value is None or math.isnan(float(value)) else float(value)
            for name, value in values.items()
            if name not in COUNTS
        },
        calls=sum(int(judgement["attempts"]) for judgement in said.values()),
        failure=score.explanation if any(values.get(name) for name in COUNTS) else None,
    )
