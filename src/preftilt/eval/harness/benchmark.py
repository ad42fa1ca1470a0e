"""What a benchmark is: requests, the settings of the methods that answer them, and verdicts on answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from preftilt.api import Settings
from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput, MissingPackage
from preftilt.eval.harness.budget import Budget
from preftilt.messages import Image, Message, check_encodable
from preftilt.prompt import PromptSettings, with_preferences
from preftilt.records.lines import parse_json
from preftilt.records.patch import SettingsPatch, complaints, ignored_by_search
from preftilt.types import GenerateWith, Preference

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer

Json = Mapping[str, Any]

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkProtocol:
    """What a benchmark does where its user says nothing, named as results name settings.

    search: the search's name. searches: each search's own settings, by name; they count only where it is the search.
    """

    settings: Json
    search: str = "best-of-n"
    searches: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMethod:
    """How answers are made: flat ``settings`` over preftilt's defaults, and the names of those ``chosen`` by the user.

    With nothing chosen, a model that is not preftilt's own is measured as it is.
    """

    settings: Json
    chosen: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What stands in logs."""
        return {"settings": dict(self.settings), "chosen": list(self.chosen)}


def choose_method(
    protocol: BenchmarkProtocol,
    *,
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | Json | None = None,
) -> TaskMethod:
    """The protocol's settings with what the user of a task changes.

    lam, search, n: short for ``lambda``, ``search.name`` and ``search.n``. method: how the answer is picked.
    settings: further changes, an object or its JSON: ``{"reduction": "mean", "search": {"delimiter": "\\n\\n"}}``.
    Of the protocol, what the chosen search has no use for is left out; of the user's, it is an error.
    """
    changes = json_object(settings, "settings")
    own = json_object(changes.get("search"), "search")
    for place, name, value in (
        (changes, "lambda", lam),
        (changes, "method", method),
        (own, "name", search),
        (own, "n", n),
    ):
        if value is not None and place.setdefault(name, value) != value:
            raise BadInput(
                f"{name} is given twice, as {value!r} and in settings as {place[name]!r}"
            )
    kind = own.get("name") or protocol.search
    searched = {"name": kind, **protocol.searches.get(kind, {}), **own}
    kept = {
        k: v
        for k, v in protocol.settings.items()
        if k not in ignored_by_search(kind, protocol.settings)
    }
    merged = {**kept, **changes, "search": searched}
    patched(Settings(), merged)
    return TaskMethod(
        settings=merged, chosen=tuple(sorted({*changes, *(["search"] if own else [])}))
    )


def patched(base: Settings, changes: Json) -> Settings:
    """``base`` with ``changes``, which are named as in results and in the rows of ``preftilt run``.

    Raises :class:`~preftilt.errors.BadInput` that says which of them cannot be.
    """
    try:
        patch = SettingsPatch.model_validate(changes)
    except ValidationError as failure:
        raise BadInput(f"settings: {'; '.join(complaints(failure, SettingsPatch))}") from failure
    return patch.apply(base)


def one_of(name: str, value: str, choices: tuple[Choice, ...]) -> Choice:
    """The choice that a task's argument ``name`` makes; anything else is refused with what there is."""
    for choice in choices:
        if choice == value:
            return choice
    raise BadInput(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def json_object(value: object, name: str) -> dict[str, Any]:
    """An object that a task's argument ``name`` gives, from its JSON if need be; nothing is an empty one."""
    if isinstance(value, str):
        check_encodable(value, name)
    data = parse_json(value.encode()) if isinstance(value, str) else value
    if data is not None and not isinstance(data, Mapping):
        raise BadInput(f"{name} must be a JSON object, not {value!r}")
    return dict(data or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """A question as an item of a benchmark asks it; ``prompt`` says where its parts stand.

    ``preferences`` is empty where the history is the preference (``prompt.history``), or where there is none at all.
    """

    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...] = ()
    prompt: PromptSettings = field(default_factory=PromptSettings)

    @property
    def plain(self) -> bool:
        """Whether there is no preference in it: it can be answered, not realigned."""
        return not self.preferences and self.prompt.history == "both"

    def conversation(self) -> list[Message]:
        """The words that an answer is drawn from, as a chat: what a model without preftilt is given."""
        if self.prompt.generate_with == "full":
            return with_preferences(self.messages, self.preferences, self.prompt)
        if self.prompt.history == "both":
            return with_preferences(self.messages, (), self.prompt)
        system = [message for message in self.messages if message.role == "system"]
        turns = [message for message in self.messages if message.role != "system"]
        return [*system, *turns[self.prompt.preference_turns or len(turns) - 1 :]]

    def going_on(self, answer: str, then: str) -> BenchmarkRequest:
        """The same request after one more exchange: the model's ``answer`` and the user's next turn."""
        more = (Message("assistant", answer), Message("user", then))
        turns = self.prompt.preference_turns
        if self.prompt.history == "preference" and turns is None:
            turns = sum(message.role != "system" for message in self.messages) - 1
        prompt = replace(self.prompt, preference_turns=turns)
        return replace(self, messages=(*self.messages, *more), prompt=prompt)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON: what travels in a sample's metadata."""
        return {
            "messages": [asdict(message) for message in self.messages],
            "preferences": [asdict(preference) for preference in self.preferences],
            "prompt": asdict(self.prompt),
        }


def ask(
    question: str,
    preference: str | None,
    generate_with: GenerateWith = "full",
    images: tuple[Image, ...] = (),
) -> BenchmarkRequest:
    """One question, behind its ``images``, with at most one preference."""
    return BenchmarkRequest(
        messages=(Message("user", question, images),),
        preferences=() if preference is None else (Preference(preference),),
        prompt=PromptSettings(generate_with=generate_with),
    )


def read_request(data: Mapping[str, Any]) -> BenchmarkRequest:
    """The request that :meth:`BenchmarkRequest.to_json` wrote."""
    known = {field.name for field in fields(PromptSettings)}
    messages = [
        Message(
            message["role"],
            message["content"],
            tuple(Image(**image) for image in message["images"]),
        )
        for message in data["messages"]
    ]
    return BenchmarkRequest(
        messages=tuple(messages),
        preferences=tuple(Preference(**preference) for preference in data["preferences"]),
        prompt=PromptSettings(**{k: v for k, v in data["prompt"].items() if k in known}),
    )


TREES = {"subtrees": 4, "width": 4}

LINE_SEARCHES: Mapping[str, Json] = {
    "best-of-n": {"n": 16},
    "dvts": {**TREES, "delimiter": "\n"},
}
"""Each search's own settings where a step of a tree search is a line."""


def own_protocol(search: str, **sampling: float) -> BenchmarkProtocol:
    """What a benchmark's own preset does: its search and sampling; λ and the reduction are the paper's."""
    settings = {"lambda": 20.0, "reduction": "sum", **sampling}
    return BenchmarkProtocol(settings=settings, search=search, searches=LINE_SEARCHES)


def rear_protocol(
    preset: str, *, max_tokens: int, method: dict[str, Any] | None = None
) -> BenchmarkProtocol:
    """``rear-paper``: sum, steps of one line. ``rear-official``: mean, steps of a paragraph, at most 40 of them.

    Source: REAR (arXiv 2606.30339), appendices C to E, and the defaults of its published code. ``rear-official``
    samples as that code's server does by its model's defaults, for Qwen2.5 (top-p 0.8, top-k 20); their repetition
    penalty of 1.05 is not one of preftilt's settings and is left out. method: how the answer is picked, if not by
    REAR's score.
    """
    common: dict[str, Any] = {
        "lambda": 20.0,
        "gamma": 1.0,
        "temperature": 1.0,
        "max_tokens": max_tokens,
        **({} if method is None else {"method": method}),
    }
    if preset == "rear-official":
        return BenchmarkProtocol(
            settings={**common, "reduction": "mean", "top_p": 0.8, "top_k": 20},
            searches={
                "best-of-n": {"n": 16},
                "dvts": {**TREES, "delimiter": "\n\n", "max_steps": 40},
            },
        )
    return BenchmarkProtocol(
        settings={**common, "reduction": "sum", "top_p": 1.0, "top_k": 0},
        searches=LINE_SEARCHES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The switches of a benchmark's protocol: a preset's values, or what the user of a task says."""

    preset: str

    def __post_init__(self) -> None:
        check_settings(self)

    def to_json(self) -> dict[str, Any]:
        """What stands in logs and reports."""
        return asdict(self)


RulesT = TypeVar("RulesT", bound=Rules)


def choose_rules(
    presets: Sequence[RulesT], preset: str, switches: str | Json | None = None
) -> RulesT:
    """Those of ``presets`` with the name ``preset``, changed by the user's ``switches``: an object or its JSON.

    Raises :class:`~preftilt.errors.BadInput` for a preset or a switch that does not exist, and for a value that the
    rules do not take.
    """
    by_name = {rules.preset: rules for rules in presets}
    base = by_name[one_of("preset", preset, tuple(by_name))]
    changes = json_object(switches, "switches")
    known = [field.name for field in fields(base) if field.name != "preset"]
    for name in changes:
        if name not in known:
            raise BadInput(f"there is no switch {name!r}; there are {', '.join(known)}")
    return replace(base, **changes)


Item = TypeVar("Item")

Values = Mapping[str, float | None]
"""A benchmark's numbers for one answer; None where there is no verdict."""


@dataclass(frozen=True, slots=True)
class Case:
    """One item as it is asked. ``facts`` are what its answers are judged by, as plain JSON, ``target`` the right one;
    ``repeat`` counts from 1 where it is asked several times."""

    id: str
    request: BenchmarkRequest
    facts: Json
    repeat: int = 1
    target: str = ""

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


def verdicts_mark(rules: Rules, judge_prompts: str | None) -> str:
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

    Attributes:
        data: where the benchmarks' data are (docs/how-to/benchmarks.md).
        judge: inspect model that judges answers, such as openai/gpt-4.1.
        judge_prompts: the benchmark's own prompts for the judge.
        max_judge_calls: of a benchmark at most; then the rest has no verdict.
        preset: whose protocol.
        switches: changes to the protocol's switches.
        limit: items to report on.
        validation: further items, to choose λ on; 20 at least, or none.
        logs: where Inspect's logs go.
    """

    data: str | None = setting(None, metavar="FOLDER")
    judge: str | None = setting(None, metavar="MODEL")
    judge_prompts: str | None = setting(None, metavar="FOLDER")
    max_judge_calls: int | None = setting(None, least=0)
    preset: str = setting("rear-paper", metavar="rear-paper|rear-official")
    switches: Json = setting(factory=dict, metavar="JSON")
    limit: int | None = setting(None, least=1, told="all", panel="Sizes")
    validation: int = setting(0, least=0, panel="Sizes")
    logs: str = "logs"

    def __post_init__(self) -> None:
        check_settings(self)

    def split(self, items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
        """Items to report on, and to choose λ on: those behind them."""
        end = len(items) - self.validation if self.limit is None else self.limit
        test = items[: max(end, 0)]
        return test, items[len(test) : len(test) + self.validation]

    def cases(self, items: Sequence[Item], case: Callable[[Item], Case]) -> dict[str, Any]:
        """``test`` and ``validation`` of a :class:`Benchmark` that inserts no messages."""
        test, validation = self.split(items)
        return {
            "test": lambda _: [case(item) for item in test],
            "validation": lambda: [case(item) for item in validation],
        }

    def folder(self, benchmark: str) -> str:
        """The data folder; raises :class:`~preftilt.errors.BadInput` if none was named."""
        if self.data is None:
            raise BadInput(f"{benchmark} needs its data: name their folder with --data FOLDER")
        return self.data


def judged_by(
    name: str, scorer: Callable[..., Scorer], opening: Opening, **arguments: object
) -> JudgeAll:
    """Has answers judged by a benchmark's ``scorer``, made with ``arguments`` and one budget for all.

    Refuses at once if there is no judge to ask. Inspect is loaded when there are answers.
    """
    if opening.judge is None:
        raise BadInput(
            f"{name} needs a judge: name an Inspect model with --judge (the paper's is openai/gpt-4.1)"
        )
    if find_spec("inspect_ai") is None:
        raise MissingPackage('judges are asked by Inspect: pip install "preftilt[eval]"')
    judge, prompts = opening.judge, opening.judge_prompts
    budget = Budget(max_judge_calls=opening.max_judge_calls)

    def judge_all(answers: Sequence[tuple[Case, str]]) -> list[AnswerVerdict]:
        from preftilt.eval.harness.solver import judge_answers

        made = scorer(judge_prompts=prompts, budget=budget, **arguments)
        return judge_answers(name, answers, made, judge, opening.logs)

    return judge_all
