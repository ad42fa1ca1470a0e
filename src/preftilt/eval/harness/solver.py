"""Solvers: how a benchmark's request gets its answer inside an Inspect task, with preftilt or with any other model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from inspect_ai._util.error import PrerequisiteError
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
from inspect_ai.solver import Generate, Solver, TaskState, solver

from preftilt.api import Settings
from preftilt.eval.harness.budget import Budget, BudgetSpent
from preftilt.eval.harness.judge_client import InspectJudge, JudgeProbe
from preftilt.eval.harness.method import TaskMethod, patched
from preftilt.eval.harness.request import BenchmarkRequest, read_request
from preftilt.eval.provider import EXTRAS_KEY, PreftiltAPI, TaskExtras, item_of
from preftilt.messages import Message

RECORD = "preftilt"
"""Where in a sample's store the record of its answer is: settings, candidates, scores, usage."""

SPENT = "preftilt:budget_spent"
"""Where in a sample's store it says why there is no answer."""

CHAT_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed")


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


@solver
def answer(method: dict[str, Any], budget: Budget | None = None) -> Solver:
    """Answers ``metadata["request"]`` by a method (``TaskMethod.to_json``); the record goes to the sample's store."""
    how = TaskMethod(settings=method["settings"], chosen=tuple(method["chosen"]))
    limits = budget or Budget()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        request = read_request(state.metadata["request"])
        return await within(limits, state, lambda: answer_request(state, request, how, limits))

    return solve


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


async def within(
    budget: Budget, state: TaskState, work: Callable[[], Awaitable[object]]
) -> TaskState:
    """Do the work if the budget allows; if not, the sample ends here, without an answer and saying why."""
    try:
        budget.check_tokens()
        await work()
    except BudgetSpent as spent:
        state.store.set(SPENT, str(spent))
        state.completed = True
    return state


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
    request = _changed(request, method)
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
        config = _chat_config(model, method)
    output = await model.generate(chat(request.conversation()), config=config)
    if output.usage is not None:
        budget.spend(output.usage.total_tokens)
    return output


def _changed(request: BenchmarkRequest, method: TaskMethod) -> BenchmarkRequest:
    """The request with what the user's settings say about prompts; the benchmark's own choices stand in it already."""
    base = Settings(prompt=request.prompt)
    return replace(request, prompt=patched(base, method.settings).prompt)


def _chat_config(model: Model, method: TaskMethod) -> GenerateConfig:
    """Sampling for a model that is not preftilt's: the protocol's, below what the run says itself."""
    own = {name: method.settings.get(name) for name in CHAT_SETTINGS}
    if (method.settings.get("search") or {}).get("name") in ("greedy", "best-of-n", "dvts"):
        own["temperature"] = 0.0
    said = model.config.model_dump(exclude_none=True)
    return GenerateConfig(**{name: value for name, value in own.items() if name not in said})


def _check_method(model: Model, method: TaskMethod) -> None:
    """A method needs a model that scores; other models are measured as they are."""
    if method.chosen and not isinstance(model.api, PreftiltAPI):
        raise PrerequisiteError(
            f"{', '.join(method.chosen)}: {model} is not run by preftilt, so it can only be measured as it is;"
            " leave these arguments out or take --model preftilt/…"
        )
