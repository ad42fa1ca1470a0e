"""MATH-500, AIME 2024 and AMC 2023: problems with one final answer, checked by math-verify, without a judge.

A file has one JSON object a line, a problem and its final answer. MATH-500 is read as openreasoner/openr publishes it,
AIME 2024 and AMC 2023 as RyanLiu112/compute-optimal-tts does (both MIT). Copies on hubs name the fields a little
differently and are read, too.

Where the paper and its code do different things: one switch each, and presets by name.

==========================  ==================  ==================
switch                      rear-paper          rear-official
==========================  ==================  ==================
score of a candidate        sum                 mean
sampling                    T 1                 T 1, top-p 0.8,
                                                top-k 20
steps of a tree search      one line            a paragraph,
                                                40 steps
==========================  ==================  ==================

Both draw 16 candidates of at most 8096 tokens with the preference, weigh by λ = 20 and give the answer of the weighted
vote, in which a candidate's vote weighs 1 plus its score as a mean over tokens. The texts of the three preferences are
our wording of what the paper describes: a rigorous mathematician, one line, and an author of fiction as the control.

As Inspect tasks::

    inspect eval preftilt/math500 --model preftilt/Qwen/Qwen2.5-7B-Instruct -T data=../shared/data -T lam=20
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from preftilt.errors import MissingPackage
from preftilt.eval.answers import RecordedAnswer, best_of, elected, recorded_answer
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Json,
    Opening,
    Rules,
    TaskMethod,
    Values,
    ask,
    choose_method,
    choose_rules,
    json_object,
    read_request,
    rear_protocol,
)
from preftilt.eval.harness.budget import Budget
from preftilt.eval.harness.rows import (
    HUB,
    DataRow,
    check_count,
    data_folder,
    hub_rows,
    jsonl_rows,
    own_text,
)
from preftilt.reward import Reward
from preftilt.rivals.votes import final_answer, maths
from preftilt.types import GenerateWith

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import Solver, TaskState

SetName = Literal["math500", "aime24", "amc23"]

PROBLEMS = ("problem", "question")
ANSWERS = ("final_answer", "extracted_groundtruth", "answer")
"""The names that a field has in the files and on hubs."""

SECONDS = 20
"""How long one parse and one comparison may take."""

VOTE = {"name": "weighted-vote", "answers": "maths"}

CHOICES = ("majority", "weighted", "rear", "any", "sample")
"""Ways of choosing: majority vote; vote weighed by 1 + mean score; REAR's best candidate; any right answer at all (what
no way of choosing can exceed); and one candidate at random (what choosing starts from)."""

Check = Callable[[str], bool | None]
"""Whether an answer is right; None if that is not known."""


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """A set's file below the data folder (or in it), its number of rows, its usual split on hubs, and how often the
    protocol has each problem answered: a set of few problems several times."""

    folder: str
    file: str
    rows: int
    split: str
    repeats: int = 1


SOURCES: dict[SetName, ProblemSet] = {
    "math500": ProblemSet("math500_openr", "math_500.jsonl", 500, "test"),
    "aime24": ProblemSet("aime24_amc23_computeoptimaltts", "aime24.jsonl", 30, "train", 10),
    "amc23": ProblemSet("aime24_amc23_computeoptimaltts", "amc23.jsonl", 40, "test", 10),
}


@dataclass(frozen=True, slots=True)
class MathsProblem:
    """A problem and its final answer, in LaTeX."""

    id: str
    problem: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MathsRules(Rules):
    """The switches of the mathematics tasks.

    preference: which of the three texts is the system message. box: the problem is followed by a line that asks for
    the answer in a box, in both views; off in both presets, as models that were trained on such problems do it unasked.
    """

    preset: Literal["rear-paper", "rear-official"]
    preference: Literal["full", "brief", "unrelated"] = "full"
    generate_with: GenerateWith = "full"
    box: bool = False


PRESETS = (MathsRules(preset="rear-paper"), MathsRules(preset="rear-official"))


def rules_for(preset: str, preference: str, switches: str | Json | None) -> MathsRules:
    """A preset's rules with a preference and the user's ``switches``."""
    changes = {"preference": preference, **json_object(switches, "switches")}
    return choose_rules(PRESETS, preset, changes)


def method_protocol(rules: MathsRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    return rear_protocol(rules.preset, max_tokens=8096, method=VOTE)


def request_for(item: MathsProblem, rules: MathsRules) -> BenchmarkRequest:
    """The problem, with the preference as the system message."""
    problem = f"{item.problem}\n\n{own_text('maths', 'box.txt')}" if rules.box else item.problem
    preference = own_text("maths", f"preference_{rules.preference}.txt")
    return ask(problem, preference, rules.generate_with)


def case_of(item: MathsProblem, rules: MathsRules) -> Case:
    """The problem as it is asked and checked."""
    request = request_for(item, rules)
    facts = {"problem": item.problem, "preference": request.preferences[0].text}
    return Case(item.id, request, facts, target=item.answer)


def load_items(data: str, name: SetName, *, split: str | None = None) -> tuple[MathsProblem, ...]:
    """A set's items in file order; ``data`` is a folder or ``hub:OWNER/NAME``, whose ``split`` may be another one."""
    source = SOURCES[name]
    if data.startswith(HUB):
        rows, file = hub_rows(data.removeprefix(HUB), split or source.split), data
    else:
        folder = data_folder(data, "math")
        inner = folder / source.folder
        rows, file = jsonl_rows((inner if inner.is_dir() else folder) / source.file), source.file
    check_count(rows, file, source.rows)
    return tuple(_item(row, name) for row in rows)


def _item(row: DataRow, name: SetName) -> MathsProblem:
    """Of names that a row may have for a field, the first one is missed if it has none.

    A whole number is an answer without a fraction or leading zeros (27.0 is 27, "025" is 25); any other as it is.
    """
    problem, field = (
        next((name for name in names if name in row.fields), names[0])
        for names in (PROBLEMS, ANSWERS)
    )
    value = row.fields.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != value // 1:
            raise row.wrong(field, f"is {value}, which is no whole number")
        answer = str(int(value))
    else:
        answer = row.text(field)
        answer = str(int(answer)) if answer.isascii() and answer.isdecimal() else answer
    return MathsProblem(f"{name}/{row.number}", row.text(problem), answer)


def check_installed() -> None:
    """Raises :class:`~preftilt.errors.MissingPackage` without math-verify."""
    if find_spec("math_verify") is None:
        raise MissingPackage(
            'checking answers of mathematics needs math-verify: pip install "preftilt[eval]"'
        )


def same_answer(gold: str, answer: str) -> bool | None:
    r"""Whether ``answer`` equals ``gold``, as they stand in a ``\boxed{}``; None if that took too long to find out.

    Equal texts are equal answers; an answer that cannot be read as mathematics differs from any other text.
    math-verify keeps time by a signal, which only the main thread can have; in others there is no limit.
    """
    boxed = [f"\\boxed{{{text}}}" for text in (gold, answer)]
    if maths(boxed[0]) == maths(boxed[1]):
        return True
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    try:
        left, right = (
            parse(text, parsing_timeout=seconds, raise_on_error=True)  # pyright: ignore[reportArgumentType]
            for text in boxed
        )
    except TimeoutException:
        return None
    except Exception:  # sympy and the grammar raise many kinds for what is no mathematics.
        return False
    try:
        return verify(left, right, timeout_seconds=seconds, raise_on_error=True)
    except TimeoutException:
        return None
    except Exception:  # One reading of an answer cannot be compared; another one may be.
        return verify(left, right, timeout_seconds=seconds)


def checker(gold: str) -> Check:
    """A check that looks at each answer once: a pool repeats its answers, and its sizes all of them."""
    return cache(lambda answer: same_answer(gold, answer))


def right(text: str, check: Check) -> float | None:
    """Whether a response's final answer is right; none at all is a wrong one, None that the check took too long."""
    final = final_answer(text)
    verdict = False if final is None else check(final)
    return None if verdict is None else float(verdict)


def curve(n: int) -> list[int]:
    """The powers of two below ``n``: the sizes at which a pool is looked at besides its own."""
    return [2**k for k in range(n.bit_length()) if 2**k < n]


def columns(curve_of: Sequence[int]) -> list[str]:
    """The names of :func:`choose`'s numbers: of the whole pool, and of its first candidates."""
    return [*CHOICES, *(f"{name}_{n}" for n in curve_of for name in CHOICES)]


def choose(
    record: Mapping[str, Any], curve_of: Sequence[int], check: Check
) -> dict[str, float | None]:
    """Whether each way of choosing gives the right answer, from the whole pool of an answer's record
    (``eval.answers.short_record``) and from its first n candidates."""
    settings = record["settings"]
    reward = Reward(**{field.name: settings[field.name] for field in fields(Reward)})
    candidates = sorted(record["candidates"], key=lambda candidate: candidate["slot"])
    pool = [recorded_answer(candidate) for candidate in candidates]
    values = _chosen(pool, settings["lambda"], reward, check)
    for n in curve_of:
        of_first = _chosen(pool[:n], settings["lambda"], reward, check)
        values |= {f"{name}_{n}": value for name, value in of_first.items()}
    return values


def _chosen(
    pool: Sequence[RecordedAnswer], lam: float, reward: Reward, check: Check
) -> dict[str, float | None]:
    verdicts = [right(candidate.text, check) for candidate in pool]
    known = [verdict for verdict in verdicts if verdict is not None]
    whole = len(known) == len(verdicts)
    return {
        "majority": right(elected(pool, maths, None, reward).text, check),
        "weighted": right(elected(pool, maths, lam, reward).text, check),
        "rear": right(best_of(pool, lam, reward).text, check),
        "any": max(known) if whole or 1.0 in known else None,
        "sample": sum(known) / len(known) if whole else None,
    }


def open_maths(name: SetName, opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: problems of AIME and AMC are answered ten times, as in the paper, unless the user
    says otherwise. The switch ``preference`` takes another of the three texts than the full one."""
    check_installed()
    data = opening.folder(name)
    rules = rules_for(opening.preset, "full", opening.switches)
    items = load_items(data, name)
    return Benchmark(
        name=name,
        title=name.upper().replace("MATH500", "MATH-500"),
        metrics=("correct", "no answer"),
        fault="no answer",
        protocol=method_protocol(rules),
        switches={**rules.to_json(), "rows there": f"{len(items)} of {SOURCES[name].rows}"},
        **opening.cases(items, lambda item: case_of(item, rules)),
        repeats=SOURCES[name].repeats,
        answers="maths",
        check=_checked,
    )


def _checked(case: Case, answer: str) -> Values:
    """An answer without a final answer is wrong; one whose comparison takes too long has no verdict."""
    correct = right(answer, lambda final: same_answer(case.target, final))
    return {"correct": correct, "no answer": float(final_answer(answer) is None)}


GREEDY = "preftilt:greedy"
"""Where in a sample's store its greedy answer is: in the first epoch, as it is the same in all."""

COUNTS = ("no_answer", "unchecked", "over_budget")
"""What is counted: answers without a final answer (they are wrong), answers whose check took too long (they have no
score), and items that the budget did not allow."""


def _solved(name: SetName) -> Callable[..., Task]:
    """The task of one set of problems. All arguments are named: Inspect reads them off the signature."""

    @lazy_inspect.task(name)
    def solved(
        data: str,
        split: str | None = None,
        preset: str = "rear-paper",
        preference: str = "full",
        greedy: bool = True,
        lam: float | None = None,
        search: str | None = None,
        n: int | None = None,
        method: str | None = None,
        settings: str | dict[str, Any] | None = None,
        switches: str | dict[str, Any] | None = None,
        max_tokens_total: int | None = None,
    ) -> Task:
        """Problems of mathematics, answered and checked.

        data: folder, or ``hub:OWNER/NAME``; split: of the hub's. preset: ``rear-paper`` or ``rear-official``; switches:
        changes to it (:class:`MathsRules`), as JSON. preference: ``full``, ``brief`` or ``unrelated``. greedy: also
        measure the model's greedy answer. The others are those of every task.
        """
        from preftilt.eval.harness.solver import make_task, samples

        budget = Budget(max_tokens_total=max_tokens_total)
        check_installed()
        rules = rules_for(preset, preference, switches)
        chosen = choose_method(
            method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
        )
        cases = [case_of(item, rules) for item in load_items(data, name, split=split)]
        # Only best-of-n draws candidates of which the first ones are what a smaller n would have drawn.
        drawn = chosen.settings["search"]
        sizes = curve(int(drawn["n"])) if drawn["name"] == "best-of-n" else []
        return make_task(
            name,
            samples(cases),
            method=chosen,
            budget=budget,
            solver=maths_answer(chosen.to_json(), greedy, budget),
            scorer=maths_answers(sizes, greedy),
            epochs=SOURCES[name].repeats,
            protocol=rules.to_json(),
            items=len(cases),
            items_of_benchmark=SOURCES[name].rows,
        )

    return solved


math500 = _solved("math500")
"""500 problems of the MATH test set."""

aime24 = _solved("aime24")
"""30 problems of AIME 2024, each answered 10 times (``--epochs``)."""

amc23 = _solved("amc23")
"""40 problems of AMC 2023, each answered 10 times (``--epochs``)."""


@lazy_inspect.solver
def maths_answer(
    method: dict[str, Any], greedy: bool = True, budget: Budget | None = None
) -> Solver:
    """Answers ``metadata["request"]`` greedily under the same prompt (``greedy``), and by a method."""
    from inspect_ai.model import get_model

    from preftilt.eval.harness.solver import answer_request, say, within
    from preftilt.eval.provider import PreftiltAPI

    how = TaskMethod(settings=method["settings"], chosen=tuple(method["chosen"]))
    limits = budget or Budget()

    async def answer(state: TaskState) -> None:
        request = read_request(state.metadata["request"])
        if greedy and state.epoch == 1 and isinstance(get_model().api, PreftiltAPI):
            plain = {"search": {"name": "greedy"}, "max_tokens": how.settings["max_tokens"]}
            text = await say(state, request.conversation(), limits, settings=plain, part="/greedy")
            state.store.set(GREEDY, text)
        await answer_request(state, request, how, limits)

    return within(limits, answer)


@lazy_inspect.scorer(("correct", "greedy", *(f"{choice}*" for choice in CHOICES)), COUNTS)
def maths_answers(curve_of: list[int] | None = None, greedy: bool = True) -> Scorer:
    """Whether the answer is right, and whether other choices from the same candidates are.

    curve_of: sizes at which the pool is looked at besides its own. greedy: whether there is a greedy answer to check.
    """
    from inspect_ai.model import get_model
    from inspect_ai.scorer import Score

    from preftilt.eval.harness.judge import SPENT, no_answer, numbers
    from preftilt.eval.harness.solver import RECORD
    from preftilt.eval.provider import PreftiltAPI

    sizes = curve_of or []

    async def score(state: TaskState, target: Target) -> Score:
        with_pool = isinstance(get_model().api, PreftiltAPI)
        names = ["correct", *(["greedy"] if greedy and with_pool else [])]
        names += columns(sizes) if with_pool else []
        spent = state.store.get(SPENT)
        if spent is not None:
            return no_answer(names, spent, COUNTS)
        text, check = state.output.completion, checker(target.text)
        values = {"correct": right(text, check)}
        if (first := state.store.get(GREEDY)) is not None:
            values["greedy"] = right(first, check)
        if with_pool and (record := state.store.get(RECORD)) is not None:
            values |= choose(record, sizes, check)
        final, unchecked = final_answer(text), values["correct"] is None
        counted = (float(final is None), float(unchecked), 0.0)
        return Score(
            value=numbers(dict.fromkeys(names) | values) | dict(zip(COUNTS, counted, strict=True)),
            answer=final,
            explanation="checking this answer took too long" if unchecked else None,
            reason="invalid_response_format" if final is None else None,
        )

    return score
