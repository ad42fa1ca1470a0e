"""Multifaceted Bench (Lee et al., 2024): system messages of several wishes, answers judged by a rubric for each.

Multifaceted Bench's rows, in any of the three forms that it was published in (kaistAI/Janus).

The current one is a list of rows with ``system``, ``prompt``, ``reference_answer`` and ``rubrics``; an older one calls
the last ``rubric``; in the oldest the rows stand in an object under their ids, with ``system_prompt`` and
``user_prompt``. Nothing of it is in this package; its licence is CC BY 4.0.

Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

=========================  ================  ================  =========================================
switch                     rear-paper        rear-official     multifaceted
=========================  ================  ================  =========================================
how the answer is made     best of 16        best of 16        one sample
score of a candidate       sum               mean              sum
sampling                   T 1               T 1, top-p 0.8,   T 1, top-p 0.9
                                             top-k 20
longest answer             2048              2048              1024
judge sees the system      yes               yes               no (as its scripts are published)
judge runs                 1                 1                 3
a grade that is missing    the others count  the others count  the row has no score
=========================  ================  ================  =========================================

The benchmark's repetition penalty of 1.03 is not one of preftilt's settings and is left out. REAR's code takes the
first digit behind the first "score" or "result" for the grade, which may stand in the middle of the feedback; here it
is the digit behind ``[RESULT]``.

As an Inspect task::

    inspect eval preftilt/multifaceted --model preftilt/demo -T data=hub:kaist-ai/Multifaceted-Bench -T lam=20
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from preftilt.declare import setting
from preftilt.engines.waiting import together
from preftilt.errors import BadInput
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Opening,
    Rules,
    ask,
    choose_method,
    choose_rules,
    judged_by,
    one_of,
    own_protocol,
    rear_protocol,
    verdicts_mark,
)
from preftilt.eval.harness.budget import Budget, JudgeSettings
from preftilt.eval.harness.rows import (
    HUB,
    DataRow,
    check_count,
    data_folder,
    hub_rows,
    json_rows,
    jsonl_rows,
    load_templates,
    parsed,
    read_bytes,
)
from preftilt.types import GenerateWith

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import TaskState

FOLDER = "multifaceted_bench"
ROWS = 921
EXAMPLES = {"readme_examples.jsonl": 2}
"""Files with fewer rows than the benchmark: the rows that its page prints."""

RUBRICS = 4
GRADES = ("1", "2", "3", "4", "5")

VALUES = ("score", "rating")
"""What an item is scored with: the mean grade divided by 5 (from 0.2 to 1, as in the REAR paper), and the mean."""

Missing = Literal["skip-grade", "skip-row"]

_RESULT = re.compile(r"\[RESULT\]\W*([0-9]+)(?![0-9]|[.,/][0-9])", re.IGNORECASE)
_OUT_OF = re.compile(r"\[RESULT\]\W*([1-5])\s*/\s*5\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultifacetedRules(Rules):
    """The switches of Multifaceted Bench; see the table above.

    judge_sees_system: the instruction that the judge reads has the system message before the prompt.
    judge_runs: how often every grade is asked for; the row's rating is the mean.
    missing: a grade that the judge fails to give is left out of its row's mean, or takes the whole row out.
    """

    preset: Literal["rear-paper", "rear-official", "multifaceted"]
    generate_with: GenerateWith = "full"
    judge_sees_system: bool = True
    judge_runs: int = setting(1, least=1)
    missing: Missing = "skip-grade"


PRESETS = (
    MultifacetedRules(preset="rear-paper"),
    MultifacetedRules(preset="rear-official"),
    MultifacetedRules(
        preset="multifaceted", judge_sees_system=False, judge_runs=3, missing="skip-row"
    ),
)


rules_for = partial(choose_rules, PRESETS)
"""A preset's rules with the user's switches."""


def method_protocol(rules: MultifacetedRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "multifaceted":
        return rear_protocol(rules.preset, max_tokens=2048)
    return own_protocol("sample", temperature=1.0, top_p=0.9, max_tokens=1024)


def request_for(item: MultifacetedItem, rules: MultifacetedRules) -> BenchmarkRequest:
    """The prompt, with the system message as the preference."""
    return ask(item.prompt, item.system, rules.generate_with)


def judged_instruction(item: MultifacetedItem, rules: MultifacetedRules) -> str:
    """The instruction as the judge reads it."""
    return f"{item.system}\n{item.prompt}" if rules.judge_sees_system else item.prompt


def case_of(item: MultifacetedItem, rules: MultifacetedRules) -> Case:
    """The prompt as it is asked, and what its judge is told."""
    facts = {
        "source": item.source,
        "preference": item.system,
        "instruction": judged_instruction(item, rules),
        "reference_answer": item.reference,
        "rubrics": [rubric.to_text() for rubric in item.rubrics],
    }
    return Case(item.id, request_for(item, rules), facts, target=item.reference)


@dataclass(frozen=True, slots=True)
class Rubric:
    """One criterion with a description of each grade."""

    criteria: str
    descriptions: Mapping[str, str]

    def to_text(self) -> str:
        """As the judge reads it: JSON, indented by 4."""
        shown = {"criteria": self.criteria, "score_descriptions": dict(self.descriptions)}
        return json.dumps(shown, indent=4, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultifacetedItem:
    """One row: ``system`` states the user's wishes, and each of ``rubrics`` grades one of them."""

    id: str
    source: str
    system: str
    prompt: str
    reference: str
    rubrics: tuple[Rubric, ...]


def load_items(data: str) -> tuple[MultifacetedItem, ...]:
    """All items in file order. ``data`` is a folder with one data file, or ``hub:OWNER/NAME``."""
    if data.startswith(HUB):
        rows, file = hub_rows(data.removeprefix(HUB), "train"), data
    else:
        path = _only_file(data_folder(data, FOLDER))
        rows, file = _read(path), path.name
    check_count(rows, file, EXAMPLES.get(file, ROWS))
    return tuple(map(_item, rows))


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
    if len(files) == 1:
        return files[0]
    what = "no data file" if not files else f"several ({', '.join(file.name for file in files)})"
    raise BadInput(
        f"{folder} must hold Multifaceted Bench as one .json or .jsonl file and has {what};"
        " or take it from its hub (-T data=hub:kaist-ai/Multifaceted-Bench)"
    )


def _read(path: Path) -> Sequence[DataRow]:
    if path.suffix == ".jsonl":
        return jsonl_rows(path)
    if not read_bytes(path).lstrip().startswith(b"{"):
        return json_rows(path)
    by_id = parsed(path.name, read_bytes(path))
    for number, fields in enumerate(by_id.values()):
        if not isinstance(fields, dict):
            raise BadInput(f"{path.name}, row {number}: must be an object")
    return [
        DataRow(path.name, i, {"id": id} | fields) for i, (id, fields) in enumerate(by_id.items())
    ]


def _item(row: DataRow) -> MultifacetedItem:
    old = "system_prompt" in row.fields
    return MultifacetedItem(
        id=row.optional_text("id") or str(row.number),
        source=row.optional_text("original_source" if old else "source") or "",
        system=row.text("system_prompt" if old else "system"),
        prompt=row.text("user_prompt" if old else "prompt"),
        reference=row.text("reference_answer"),
        rubrics=_rubrics(row),
    )


def _rubrics(row: DataRow) -> tuple[Rubric, ...]:
    name = "rubric" if "rubric" in row.fields else "rubrics"
    rubrics = row.objects(name)
    if len(rubrics) != RUBRICS:
        raise row.wrong(name, f"has {len(rubrics)} entries, not {RUBRICS}")
    return tuple(
        Rubric(
            rubric.text("criteria"),
            {grade: rubric.object("score_descriptions").text(grade) for grade in GRADES},
        )
        for rubric in rubrics
    )


def read_grade(text: str) -> int | None:
    """The whole number from 1 to 5 behind the last ``[RESULT]``; None without one ("3/5" is 3, "3.5" is none)."""
    digits = _OUT_OF.findall(text) or _RESULT.findall(text)
    grade = int(digits[-1]) if digits and len(digits[-1]) == 1 else 0
    return grade if 1 <= grade <= 5 else None


def rate(grades: Sequence[int | None], missing: Missing) -> dict[str, float | None]:
    """A row's numbers by the names of :data:`VALUES`; ``grades`` are those of all rubrics and runs."""
    known = [grade for grade in grades if grade is not None]
    if not known or (missing == "skip-row" and len(known) < len(grades)):
        return dict.fromkeys(VALUES)
    rating = sum(known) / len(known)
    return {"score": rating / 5, "rating": rating}


def open_multifaceted(opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: the mean grade of an answer divided by 5, as in the paper."""
    data = opening.folder("Multifaceted Bench")
    rules = rules_for(opening.preset, opening.switches)
    items = load_items(data)
    return Benchmark(
        name="multifaceted",
        title="Multifaceted Bench",
        metrics=("score",),
        protocol=method_protocol(rules),
        switches={**rules.to_json(), "rows there": f"{len(items)} of {ROWS}"},
        **opening.cases(items, lambda item: case_of(item, rules)),
        judge=judged_by(
            "multifaceted",
            multifaceted_rubrics,
            opening,
            judge_runs=rules.judge_runs,
            missing=rules.missing,
        ),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


JUDGE = JudgeSettings(max_tokens=1024, temperature=1.0, top_p=0.9, attempts=6)
"""As in the benchmark and in the REAR paper; a grade that cannot be read is asked for up to five times more."""

GAPS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "rubric": frozenset({"instruction", "response", "reference_answer", "rubric"}),
}
"""The judge's system message and prompt, and their gaps."""


@lazy_inspect.task("multifaceted")
def multifaceted(
    data: str,
    preset: str = "rear-paper",
    lam: float | None = None,
    search: str | None = None,
    n: int | None = None,
    method: str | None = None,
    settings: str | dict[str, Any] | None = None,
    switches: str | dict[str, Any] | None = None,
    judge_prompts: str | None = None,
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
) -> Task:
    """The system message states several wishes; the judge grades the answer by a rubric for each.

    data: folder, or ``hub:OWNER/NAME``. preset: ``rear-paper``, ``rear-official`` or ``multifaceted``; switches:
    changes to it (:class:`MultifacetedRules`), as JSON. judge_prompts: a folder with ``judge_system.txt`` and
    ``judge_rubric.txt``. The others are those of every task.
    """
    from preftilt.eval.harness.solver import make_task, samples

    budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
    rules = rules_for(preset, switches)
    chosen = choose_method(
        method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
    )
    cases = [case_of(item, rules) for item in load_items(data)]
    return make_task(
        "multifaceted",
        samples(cases),
        method=chosen,
        budget=budget,
        judge=JUDGE,
        scorer=multifaceted_rubrics(
            judge_prompts,
            rules.judge_runs,
            rules.missing,
            max_judge_calls,
            max_tokens_total,
            budget,
        ),
        protocol=rules.to_json(),
        items=len(cases),
        items_of_benchmark=ROWS,
    )


@lazy_inspect.scorer(VALUES)
def multifaceted_rubrics(
    judge_prompts: str | None = None,
    judge_runs: int = 1,
    missing: str = "skip-grade",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """The mean grade of an answer over its rubrics, by one judgement for each rubric and run.

    ``budget`` is the task's, shared with its solver.
    """
    from preftilt.eval.harness.judge import judge_within, judged, scoring

    prompts = load_templates("multifaceted", "judge_{}.txt", GAPS, judge_prompts)
    rule: Missing = one_of("missing", missing, ("skip-grade", "skip-row"))
    judge = judge_within(JUDGE, budget, max_judge_calls, max_tokens_total)
    system = prompts.fill("system", {})

    async def score(state: TaskState, target: Target) -> Score:
        requests: dict[str, Any] = {}  # Side by side, by rubric and run.
        for number, rubric in enumerate(state.metadata["rubrics"], start=1):
            gaps = {
                "instruction": str(state.metadata["instruction"]),
                "response": state.output.completion,
                "reference_answer": str(state.metadata["reference_answer"]),
                "rubric": str(rubric),
            }
            prompt = prompts.fill("rubric", gaps)
            for run in range(1, judge_runs + 1):
                name = f"rubric {number}" if judge_runs == 1 else f"rubric {number}, run {run}"
                requests[name] = judge.ask(prompt, read_grade, system=system, run=run)
        said = dict(zip(requests, await together(requests.values()), strict=True))
        grades = {name: judgement.value for name, judgement in said.items()}
        return judged(
            rate(list(grades.values()), rule),
            said,
            answer=state.output.completion,
            metadata={"wording": prompts.to_json(), "grades": grades},
            budget=judge.budget,
        )

    return scoring(VALUES, score)
