"""Judges: any Inspect model in a role, asked with care. A judge that cannot be read or reached never becomes a score.

A judgement is asked for several times if need be; what fails in the end is recorded as failed, with the reason, and
whoever scores leaves the item out. Answers are cached by Inspect, so a run that is repeated asks only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import anyio
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.event import ModelEvent
from inspect_ai.log import transcript
from inspect_ai.model import (
    CachePolicy,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.util import LimitExceededError, apply_limits, token_limit

from preftilt.eval.harness.budget import Budget, BudgetSpent
from preftilt.types import Sampling, check_whole

T = TypeVar("T")

DEFAULT_JUDGE = "openai/gpt-4.1"
ROLE = "judge"

FIRST_QUESTION = "Reply with the word OK."
FIRST_CONFIG = GenerateConfig(max_tokens=512, max_retries=2, timeout=60)
"""Says nothing of sampling, and leaves room to think: a judge that would refuse either is there all the same."""

Failure = Literal["junk", "failed", "budget"]
"""An answer that cannot be read, no answer, or none that was allowed to be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How a judge is asked; sampling as the benchmark's protocol says.

    attempts: how often one judgement is asked for at most. max_retries: how often Inspect repeats one request that the
    provider calls worth repeating (rate limits, timeouts), unless the run says otherwise (``--max-retries``).
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    attempts: int = 3
    max_retries: int = 4
    timeout_s: int = 300
    cache: bool = True
    role: str = ROLE
    default: str = DEFAULT_JUDGE

    def __post_init__(self) -> None:
        for name in ("max_tokens", "attempts", "timeout_s"):
            check_whole(f"{name} of the judge", getattr(self, name), 1)
        check_whole("max_retries of the judge", self.max_retries, 0)
        Sampling(temperature=self.temperature, top_p=1.0 if self.top_p is None else self.top_p)


@dataclass(frozen=True, slots=True)
class Judgement(Generic[T]):
    """What a judge said. ``value`` is None exactly if there is a ``failure``; ``why`` then says what happened."""

    value: T | None
    text: str
    attempts: int
    failure: Failure | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """For a score's metadata; the value is the scorer's to record."""
        return {
            "text": self.text,
            "attempts": self.attempts,
            "failure": self.failure,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class InspectJudge:
    """A model in a role, its settings and the budget it shares with the rest of the task."""

    settings: JudgeSettings
    budget: Budget

    def model(self) -> Model:
        """The model in the role (``--model-role judge=…``), else the default.

        Raises Inspect's ``PrerequisiteError`` where its package or its key is missing: call it before the first answer.
        """
        return get_model(role=self.settings.role, default=self.settings.default)

    async def ask(
        self,
        prompt: str,
        parse: Callable[[str], T | None],
        *,
        system: str | None = None,
        run: int = 1,
    ) -> Judgement[T]:
        """One judgement. ``parse`` reads the answer and gives None for what it cannot read.

        ``run`` counts judgements of the same prompt from 1, so that each has an answer of its own in the cache.
        """
        model = self.model()
        messages = [] if system is None else [ChatMessageSystem(content=system)]
        judgement: Judgement[T] = Judgement(None, "", 0, "failed", "not asked")
        for attempt in range(1, self.settings.attempts + 1):
            try:
                output = await self._within_budget(
                    model, [*messages, ChatMessageUser(content=prompt)], attempt, run
                )
            except BudgetSpent as spent:
                return Judgement(None, judgement.text, attempt - 1, "budget", str(spent))
            except (PrerequisiteError, LimitExceededError):
                raise
            except (
                Exception
            ) as error:  # A provider may raise anything; the item is recorded and the run goes on.
                judgement = Judgement(None, "", attempt, "failed", _described(error, model))
                continue
            text = output.completion
            value = parse(text)
            if value is not None:
                return Judgement(value, text, attempt)
            judgement = Judgement(None, text, attempt, "junk", "its answer cannot be read")
        return judgement

    async def _within_budget(
        self,
        model: Model,
        messages: list[ChatMessageSystem | ChatMessageUser],
        attempt: int,
        run: int,
    ) -> ModelOutput:
        """One request, or what the cache has of it where the budget allows none; else ``BudgetSpent``."""
        try:
            self.budget.take_judge_call()
        except BudgetSpent:
            # Under a limit of no tokens Inspect still reads its cache, and refuses to send anything.
            with apply_limits([token_limit(0)], catch_errors=True):
                return await self._generate(model, messages, attempt, run)
            raise
        output = await self._generate(model, messages, attempt, run)
        if _from_cache(output):
            self.budget.give_back_judge_call()
        elif output.usage is not None:
            self.budget.spend(output.usage.total_tokens)
        return output

    async def _generate(
        self,
        model: Model,
        messages: list[ChatMessageSystem | ChatMessageUser],
        attempt: int,
        run: int,
    ) -> ModelOutput:
        own = self.settings
        scopes = {"attempt": str(attempt)} | ({"run": str(run)} if run > 1 else {})
        policy = CachePolicy(expiry=None, scopes=scopes) if own.cache else False
        config = GenerateConfig(
            temperature=own.temperature,
            top_p=own.top_p,
            max_tokens=own.max_tokens,
            max_retries=own.max_retries if model.config.max_retries is None else None,
            timeout=own.timeout_s if model.config.timeout is None else None,
        )
        return await model.generate([*messages], config=config, cache=policy)


@dataclass(slots=True)
class JudgeProbe:
    """Whether a task's judge answers, asked once for all samples and epochs, before anything is drawn."""

    judge: InspectJudge
    _lock: anyio.Lock = field(default_factory=anyio.Lock)
    _model: Model | None = None
    _failure: str | None = None

    async def check(self) -> None:
        """Raises Inspect's ``PrerequisiteError`` if the judge cannot be asked. Asks nothing where the budget allows
        no judgement: the cache may hold all of them."""
        model, budget = self.judge.model(), self.judge.budget
        async with self._lock:
            if self._model is not model and budget.allows_judge_call:
                try:
                    output = await probe_judge(model)
                except PrerequisiteError as failure:
                    self._failure = str(failure.message)
                else:
                    self._failure = None
                    budget.spend(0 if output.usage is None else output.usage.total_tokens)
                self._model = model
        if self._failure is not None:
            raise PrerequisiteError(self._failure)


async def probe_judge(model: Model) -> ModelOutput:
    """One short question to a judge, never answered from the cache.

    Raises Inspect's ``PrerequisiteError`` with the client's reason if it does not answer: a wrong name, address or key.
    """
    config = FIRST_CONFIG.model_copy(
        update={
            name: None
            for name in ("max_retries", "timeout")
            if getattr(model.config, name) is not None
        }
    )
    try:
        return await model.generate(FIRST_QUESTION, config=config, cache=False)
    except (PrerequisiteError, LimitExceededError):
        raise
    except Exception as error:  # As in InspectJudge.ask.
        raise PrerequisiteError(
            f"the judge {model} cannot be asked: {_described(error, model)}; check its name, address and key"
        ) from error


def _from_cache(output: ModelOutput) -> bool:
    """Whether Inspect read this output from its cache: the transcript says so, the output does not."""
    recent = (event for event in reversed(transcript().events) if isinstance(event, ModelEvent))
    return any(event.output is output and event.cache == "read" for event in recent)


def _described(error: Exception, model: Model) -> str:
    """What went wrong, shortly, without the key that some providers repeat."""
    text = str(error)
    if model.api.api_key:
        text = text.replace(model.api.api_key, "…")
    return f"{type(error).__name__}: {text[:300]}"
