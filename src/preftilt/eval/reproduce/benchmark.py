"""What a benchmark is to an experiment: requests, and verdicts on answers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, TypeVar

from preftilt.errors import BadInput
from preftilt.eval.harness.method import BenchmarkProtocol, Json
from preftilt.eval.harness.request import BenchmarkRequest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Item = TypeVar("Item")

Values = Mapping[str, float | None]
"""A benchmark's numbers for one answer; None where there is no verdict."""


@dataclass(frozen=True, slots=True)
class Case:
    """One item as it is asked. ``facts`` are what its answers are judged by, as plain JSON; ``repeat`` counts from 1
    where it is asked several times."""

    id: str
    request: BenchmarkRequest
    facts: Json
    repeat: int = 1

    @property
    def stream(self) -> str:
        """What its randomness is drawn by: a repeat has its own, the same as an Inspect task's epoch."""
        return self.id + (f"#{self.repeat}" if self.repeat > 1 else "")

    @property
    def marked_id(self) -> str:
        """The id with a mark of the words that are asked, so that records of other words are not taken for these."""
        request = self.request
        views = f"preferences={request.preferences!r}, prompt={request.prompt!r}"
        text = f"Request(messages={request.messages!r}, {views})"
        return f"{self.id} {sha256(text.encode()).hexdigest()[:8]}"

    @property
    def key(self) -> str:
        """The name of its records: :attr:`marked_id`, and which repeat it is."""
        return self.marked_id + (f" #{self.repeat}" if self.repeat > 1 else "")


@dataclass(frozen=True, slots=True)
class QualityPart:
    """One of the two sides of quality: helpfulness, or keeping the preference. ``inverted``: less of it is better."""

    metric: str
    label: str
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class AnswerVerdict:
    """What was found of an answer; ``calls`` of a judge it took. ``failure`` says why values are missing."""

    values: Values
    calls: int = 0
    failure: str | None = None


Check = Callable[[Case, str], Values]
"""An exact verdict, from code."""

JudgeAll = Callable[[Sequence[tuple[Case, str]]], list[AnswerVerdict]]
"""Verdicts by a judge, in order."""


def verdicts_mark(rules: DataclassInstance, judge_prompts: str | None) -> str:
    """What a judge's verdicts depend on besides the judge; it holds no class's name, so that one may be changed."""
    switches = ", ".join(f"{field.name}={getattr(rules, field.name)!r}" for field in fields(rules))
    return f"(Rules({switches}), {judge_prompts!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark, open.

    metrics: names of its numbers, in [0, 1]; the first is the headline, ``fault`` the one that counts what went wrong.
    breakdown: further numbers, which only some items have.
    protocol: how REAR answers by the preset; switches: all values in which presets differ, for the report.
    test, validation: cases with so many messages inserted before the question; those that λ is chosen on are none of
    those that are reported. contexts: whether messages can be inserted.
    repeats: how often the protocol has every item answered; intervals are over items all the same.
    answers: how a final answer is read, where answers can vote. Exactly one of ``check`` and ``judge`` is given;
    verdicts: a mark that changes with what they depend on, besides the judge.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    protocol: BenchmarkProtocol
    switches: Json
    test: Callable[[int], Sequence[Case]]
    validation: Callable[[], Sequence[Case]] = tuple
    contexts: bool = False
    repeats: int = 1
    parts: tuple[QualityPart, QualityPart] | None = None
    fault: str | None = None
    breakdown: tuple[str, ...] = ()
    answers: Literal["letter", "maths"] | None = None
    check: Check | None = None
    judge: JudgeAll | None = None
    verdicts: str = ""

    @property
    def exact(self) -> bool:
        """Whether a verdict costs nothing, so that every candidate can have one."""
        return self.check is not None

    @property
    def headline(self) -> str:
        return self.metrics[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a user says about benchmarks.

    data: folder of the benchmarks' files. limit, validation: items to report on, and behind them those to choose λ on.
    judge: an Inspect model; judge_prompts: a folder with the benchmark's own prompts; logs: where Inspect logs go.
    """

    data: str | None = None
    preset: str = "rear-paper"
    switches: Json = field(default_factory=dict)
    limit: int | None = None
    validation: int = 0
    judge: str | None = None
    judge_prompts: str | None = None
    max_judge_calls: int | None = None
    logs: str = "logs"

    def split(self, items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
        """Items to report on, and to choose λ on: those behind them."""
        end = len(items) - self.validation if self.limit is None else self.limit
        test = items[: max(end, 0)]
        return test, items[len(test) : len(test) + self.validation]

    def folder(self, benchmark: str) -> str:
        """The data folder; raises :class:`~preftilt.errors.BadInput` if none was named."""
        if self.data is None:
            raise BadInput(f"{benchmark} needs its data: name their folder with --data FOLDER")
        return self.data
