"""Judges: any Inspect model in a role, asked with care. A judge that cannot be read or reached never becomes a score.

A judgement is asked for several times if need be; what fails in the end is recorded as failed, with the reason, and
whoever scores leaves the item out. Answers are cached by Inspect, so a run that is repeated asks only what is missing.

Scores are what Inspect records: an object of numbers. An item whose judge failed has NaN for what it would have said,
which Inspect leaves out of every metric and counts, and is counted here as well, by cause; it never counts as 0. A
metric over no item at all is not a number, rather than 0.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import anyio
import numpy as np
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
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric
from inspect_ai.solver import TaskState
from inspect_ai.util import LimitExceededError, apply_limits, token_limit

from preftilt.errors import PreftiltError
from preftilt.eval.harness.budget import COUNTS, Budget, BudgetSpent, JudgeSettings
from preftilt.eval.stats import mean_interval

T = TypeVar("T")

FIRST_QUESTION = "Reply with the word OK."
FIRST_CONFIG = GenerateConfig(max_tokens=512, max_retries=2, timeout=60)
"""Says nothing of sampling, and leaves room to think: a judge that would refuse either is there all the same."""

Failure = Literal["junk", "failed", "budget"]
"""An answer that cannot be read, no answer, or none that was allowed to be asked for."""


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
        model, own = self.model(), self.settings
        head = [] if system is None else [ChatMessageSystem(content=system)]
        messages = [*head, ChatMessageUser(content=prompt)]
        config = GenerateConfig(
            temperature=own.temperature,
            top_p=own.top_p,
            max_tokens=own.max_tokens,
            max_retries=own.max_retries if model.config.max_retries is None else None,
            timeout=own.timeout_s if model.config.timeout is None else None,
        )
        judgement: Judgement[T] = Judgement(None, "", 0, "failed", "not asked")
        for attempt in range(1, own.attempts + 1):
            scopes = {"attempt": str(attempt)} | ({"run": str(run)} if run > 1 else {})
            policy = CachePolicy(expiry=None, scopes=scopes) if own.cache else False
            send = partial(model.generate, messages, config=config, cache=policy)
            try:
                text = (await self._within_budget(send)).completion
            except BudgetSpent as spent:
                return Judgement(None, judgement.text, attempt - 1, "budget", str(spent))
            except (PrerequisiteError, LimitExceededError):
                raise
            except Exception as error:
                # A provider may raise anything; the item is recorded and the run goes on.
                judgement = Judgement(None, "", attempt, "failed", _described(error, model))
                continue
            value = parse(text)
            if value is not None:
                return Judgement(value, text, attempt)
            judgement = Judgement(None, text, attempt, "junk", "its answer cannot be read")
        return judgement

    async def _within_budget(self, send: Callable[[], Awaitable[ModelOutput]]) -> ModelOutput:
        """One request, or what the cache has of it where the budget allows none; else ``BudgetSpent``."""
        try:
            self.budget.take_judge_call()
        except BudgetSpent:
            # Under a limit of no tokens Inspect still reads its cache, and refuses to send anything.
            with apply_limits([token_limit(0)], catch_errors=True):
                return await send()
            raise
        output = await send()
        if _from_cache(output):
            self.budget.give_back_judge_call()
        elif output.usage is not None:
            self.budget.spend(output.usage.total_tokens)
        return output


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


def check_judge(judge: str) -> None:
    """Ask an Inspect model one short question; raises :class:`~preftilt.errors.PreftiltError` if it does not answer."""

    async def ask() -> None:
        async with get_model(judge, memoize=False) as model:
            await probe_judge(model)

    try:
        asyncio.run(ask())
    except PrerequisiteError as failure:
        raise PreftiltError(f"the judge {judge} cannot be asked: {failure.message}") from failure


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


SPENT = "preftilt:budget_spent"
"""Where in a sample's store it says why there is no answer."""

_CAUSES = {
    "junk": ("judge_junk", "grader_failed"),
    "failed": ("judge_failed", "grader_failed"),
    "budget": ("over_budget", "budget_spent"),
}
"""How a failure is counted, and what Inspect calls it."""


def judge_within(
    settings: JudgeSettings,
    budget: object,
    max_judge_calls: int | None,
    max_tokens_total: int | None,
) -> InspectJudge:
    """A scorer's judge, on the budget that a task shares with it; made again from a log, it gets a new one."""
    if not isinstance(budget, Budget):
        budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
    return InspectJudge(settings, budget)


def scoring(
    names: Sequence[str],
    score: Callable[[TaskState, Target], Awaitable[Score]],
    counted: Sequence[str] = COUNTS,
) -> Scorer:
    """A scorer of answers; an item that the budget did not allow has no score."""

    async def scored(state: TaskState, target: Target) -> Score:
        spent = state.store.get(SPENT)
        return (
            await score(state, target) if spent is None else no_answer(names, str(spent), counted)
        )

    return scored


def judged(
    values: Mapping[str, float | None],
    judgements: Mapping[str, Judgement[Any]],
    *,
    answer: str,
    metadata: Mapping[str, Any],
    budget: Budget,
) -> Score:
    """The score of one item: ``values`` (None: no verdict), the counts, and what every judge said."""
    failed = [each for each in judgements.values() if each.failure is not None]
    counts = dict.fromkeys(COUNTS, 0.0)
    for each in failed:
        counts[_CAUSES[each.failure or "failed"][0]] += 1
    return Score(
        value=numbers(values) | counts,
        answer=answer,
        explanation=failed[0].why if failed else None,
        reason=_CAUSES[failed[0].failure or "failed"][1] if failed else None,
        metadata={
            **metadata,
            "judgements": {name: each.to_json() for name, each in judgements.items()},
            "judge_calls_so_far": budget.judge_calls,
        },
    )


def no_answer(names: Iterable[str], why: str, counted: Iterable[str] = COUNTS) -> Score:
    """The score of an item that was not answered because the budget was spent: there is none."""
    value = numbers(dict.fromkeys(names)) | dict.fromkeys(counted, 0.0)
    return Score(value=value | {"over_budget": 1.0}, reason="budget_spent", explanation=why)


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Values as a score holds them: NaN where there is none."""
    return {name: math.nan if value is None else float(value) for name, value in values.items()}


@metric
def average() -> Metric:
    """The mean over the items that have a score."""
    return _over_items(lambda values: float(np.mean(values)))


@metric
def low() -> Metric:
    """The lower end of the mean's 95 % interval, by the bootstrap over items."""
    return _over_items(lambda values: mean_interval(np.asarray(values)).low)


@metric
def high() -> Metric:
    """The upper end of the mean's 95 % interval, by the bootstrap over items."""
    return _over_items(lambda values: mean_interval(np.asarray(values)).high)


@metric
def items() -> Metric:
    """How many items have a score."""
    return _over_items(len, of_none=0)


@metric
def total() -> Metric:
    """The sum over all items, for counts."""
    return _over_items(lambda values: float(sum(values)), of_none=0.0)


def metrics_for(names: Sequence[str], counted: Sequence[str] = COUNTS) -> dict[str, list[Metric]]:
    """The metrics of a benchmark's scorer: means with intervals of ``names``, totals of what is ``counted``."""
    means: dict[str, list[Metric]] = {name: [average(), low(), high(), items()] for name in names}
    return means | {name: [total()] for name in counted}


def _over_items(compute: Callable[[list[float]], float], of_none: float = math.nan) -> Metric:
    """A metric of the scores that are numbers; ``of_none``: where none is."""

    def computed(scores: list[SampleScore]) -> Value:
        values = [score.score.as_float() for score in scores]
        known = [value for value in values if not math.isnan(value)]
        return compute(known) if known else of_none

    return computed
