"""MMHal-Bench (Sun et al., 2023): questions about pictures; a judge who sees none tells what is made up.

MMHal-Bench's rows and pictures (LLaVA-RLHF; the data set's card says Apache-2.0).

The rows are one file, ``response_template.json``; the pictures lie beside it in ``images/``, each named by its row's
``image_id`` or as in ``image_src``, from where they can be fetched. Nothing of it is in this package.

Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

=========================  ================  ===================  ================
switch                     rear-paper        rear-official        mmhal
=========================  ================  ===================  ================
preference                 careful           careful              none
how the answer is made     best of 16        best of 16           the likeliest
candidates drawn from      full prompt       the question alone   the question
score of a candidate       sum               mean                 –
sampling                   T 1               T 1, top-p 0.8,      T 0
                                             top-k 20
longest answer             1024              1024                 1024
an unreadable rating       no score          rated 0              rated 0
=========================  ================  ===================  ================

The preference is one text for all items: be careful with what the picture does not show. ``careful`` is our wording of
REAR's; any other text may be given. The picture and the question stand in both views. Where an answer has no readable
rating the benchmark and REAR's code rate it 0, which also counts it as made up; by default such an item has no score.

As an Inspect task::

    inspect eval preftilt/mmhal --model preftilt/llava-hf/llava-1.5-7b-hf -T data=../shared/data -T lam=20
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from preftilt.errors import BadInput
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Opening,
    Rules,
    TaskMethod,
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
    json_rows,
    load_templates,
    own_text,
)
from preftilt.messages import Image, load_image
from preftilt.types import GenerateWith

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.scorer import Score, Scorer, Target
    from inspect_ai.solver import TaskState

FOLDER = "mmhal_bench"
FILE = "response_template.json"
ROWS = 96
TYPES = (
    "attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other",
)  # fmt: skip
FETCH_SECONDS = 60.0
"""How long a picture's server may keep silent."""

BEST = 6
HALLUCINATED_BELOW = 3
VALUES = ("rating", "score", "hallucinated")
"""What an item is scored with: the rating from 0 to 6, that divided by 6, and whether something is made up."""

_RATING = re.compile(r"rating\W*([0-9]+)(?![0-9]|[.,/][0-9])", re.IGNORECASE)
_OUT_OF = re.compile(r"rating\W*([0-6])\s*/\s*6\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MMHalItem:
    """One row: a question about the picture, what is in the picture, and a right answer."""

    id: str
    type: str
    topic: str
    source: str
    content: tuple[str, ...]
    question: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MMHalRules(Rules):
    """The switches of MMHal-Bench; see the table above.

    preference: ``careful``, ``none`` or a text. junk: what a rating counts that cannot be read.
    """

    preset: Literal["rear-paper", "rear-official", "mmhal"]
    preference: str = "careful"
    generate_with: GenerateWith = "full"
    junk: Literal["unscored", "zero"] = "unscored"

    def __post_init__(self) -> None:
        Rules.__post_init__(self)
        if not self.preference.strip():
            raise BadInput('the switch preference is empty; give a text, "careful" or "none"')

    def to_json(self) -> dict[str, Any]:
        """The switches, and the preference's text."""
        return Rules.to_json(self) | {"preference_text": self.wish}

    @property
    def wish(self) -> str | None:
        """The preference's text."""
        if self.preference == "none":
            return None
        return own_text("mmhal", "careful.txt") if self.preference == "careful" else self.preference


PRESETS = (
    MMHalRules(preset="rear-paper"),
    MMHalRules(preset="rear-official", generate_with="question", junk="zero"),
    MMHalRules(preset="mmhal", preference="none", junk="zero"),
)


rules_for = partial(choose_rules, PRESETS)
"""A preset's rules with the user's switches."""


def method_protocol(rules: MMHalRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "mmhal":
        return rear_protocol(rules.preset, max_tokens=1024)
    return own_protocol("greedy", temperature=1.0, max_tokens=1024)


def check_wish(rules: MMHalRules, method: TaskMethod) -> None:
    """A method needs something to follow: raises :class:`~preftilt.errors.BadInput` where there is no preference."""
    idle = {"lambda", "method", "search"} & set(method.chosen)
    if rules.wish is None and idle:
        raise BadInput(
            f"{', '.join(sorted(idle))} would do nothing: without a preference the model answers as it is; give one"
            """ (-T switches='{"preference": "careful"}')"""
        )


def request_for(item: MMHalItem, picture: Image, rules: MMHalRules) -> BenchmarkRequest:
    """The picture and then the question, with the preference of all items."""
    return ask(item.question, rules.wish, rules.generate_with, (picture,))


def case_of(item: MMHalItem, picture: Image, rules: MMHalRules) -> Case:
    """The question as it is asked, and what its judge is told."""
    facts = {
        "preference": rules.wish,
        "question": item.question,
        "question_type": item.type,
        "question_topic": item.topic,
        "image_content": list(item.content),
    }
    return Case(item.id, request_for(item, picture, rules), facts, target=item.reference)


def load_items(data: str) -> tuple[MMHalItem, ...]:
    """All items in file order; ``data`` is a folder."""
    rows = json_rows(_folder(data) / FILE)
    check_count(rows, FILE, ROWS)
    items = tuple(map(_item, rows))
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise BadInput(f"{FILE} has the image_id {twice[0]!r} twice; it is of another version")
    return items


def load_pictures(data: str, items: Sequence[MMHalItem], *, fetch: bool) -> dict[str, Image]:
    """The picture of every item, by the item's id.

    fetch: get those that are missing from their ``image_src``, once and for good. Raises
    :class:`~preftilt.errors.BadInput` if one is not there or cannot be had.
    """
    folder = _folder(data) / "images"
    missing = [item for item in items if _file(folder, item) is None]
    if missing and not fetch:
        raise BadInput(
            f"{len(missing)} of {len(items)} pictures are not in {folder} (as {missing[0].id}.jpg); put them there, or"
            " let them be fetched from the addresses in image_src (inspect eval preftilt/mmhal -T fetch=true, 170 MB)"
        )
    for item in missing:
        _fetch(folder, item)
    files = {item: _file(folder, item) for item in items}
    return {
        item.id: load_image(str(file), where=f"the picture of {item.id} ({file.name})")
        for item, file in files.items()
        if file is not None
    }


def _folder(data: str) -> Path:
    if data.startswith(HUB):
        raise BadInput(
            f"the hub has MMHal-Bench as an archive; unpack it and give its folder, with {FILE} and images/"
            " (-T data=FOLDER)"
        )
    return data_folder(data, FOLDER)


def _item(row: DataRow) -> MMHalItem:
    kind = row.text("question_type")
    if kind not in TYPES:
        raise row.wrong("question_type", f"is {kind!r}, none of {', '.join(TYPES)}")
    return MMHalItem(
        id=row.text("image_id"),
        type=kind,
        topic=row.text("question_topic"),
        source=row.text("image_src"),
        content=row.texts("image_content"),
        question=row.text("question"),
        reference=row.text("gt_answer"),
    )


def _file(folder: Path, item: MMHalItem) -> Path | None:
    """The item's picture, by its id with any ending or by the name that its source has."""
    named = folder / Path(urlsplit(item.source).path).name
    files = [*sorted(folder.glob(f"{item.id}.*")), *([named] if named.is_file() else [])]
    return files[0] if files else None


def _fetch(folder: Path, item: MMHalItem) -> None:
    address = item.source
    if urlsplit(address).scheme not in ("http", "https"):
        raise BadInput(f"{FILE}, {item.id}: image_src {address!r} is no web address")
    try:
        with urlopen(address, timeout=FETCH_SECONDS) as answer:
            raw = answer.read()
    except (URLError, OSError) as error:
        raise BadInput(
            f"{address} cannot be fetched ({error}); put the picture into {folder} as {item.id}.jpg"
        ) from error
    folder.mkdir(exist_ok=True)
    part = folder / f".{item.id}.part"
    part.write_bytes(raw)
    part.rename(folder / f"{item.id}{Path(urlsplit(address).path).suffix or '.jpg'}")


def read_rating(text: str) -> int | None:
    """The whole number from 0 to 6 behind "Rating:"; None without one, and where several differ."""
    ratings = {int(digits) for digits in (*_OUT_OF.findall(text), *_RATING.findall(text))}
    return ratings.pop() if len(ratings) == 1 and max(ratings) <= BEST else None


def rate(rating: int | None) -> dict[str, float | None]:
    """An item's numbers by the names of :data:`VALUES`."""
    if rating is None:
        return dict.fromkeys(VALUES)
    values = (float(rating), rating / BEST, float(rating < HALLUCINATED_BELOW))
    return dict(zip(VALUES, values, strict=True))


def open_mmhal(opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: the paper's Table 3. Pictures must lie in the data folder (``inspect eval
    preftilt/mmhal -T fetch=true`` gets them), and the model must take images."""
    data = opening.folder("MMHal-Bench")
    rules = rules_for(opening.preset, opening.switches)
    if rules.wish is None:
        raise BadInput(
            "without a preference there is nothing to compare; leave preference=none out"
        )
    items = load_items(data)
    test, validation = opening.split(items)
    pictures = load_pictures(data, [*test, *validation], fetch=False)
    return Benchmark(
        name="mmhal",
        title="MMHal-Bench",
        metrics=("score", "hallucinated"),
        fault="hallucinated",
        protocol=method_protocol(rules),
        switches=rules.to_json(),
        **opening.cases(items, lambda item: case_of(item, pictures[item.id], rules)),
        judge=judged_by("mmhal", mmhal_ratings, opening, junk=rules.junk),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


JUDGE = JudgeSettings(max_tokens=512, temperature=0.0)
"""As in the REAR paper; the benchmark's own judge is of 2023 and has no limit of its own."""

GAPS = {"rating": frozenset({"image_content", "question", "reference_answer", "response"})}
"""The judge's prompts and their gaps."""


@lazy_inspect.task("mmhal")
def mmhal(
    data: str,
    fetch: bool = False,
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
    """Questions about pictures; the judge rates how informative an answer is and whether it makes something up.

    data: folder. fetch: get missing pictures from their addresses. preset: ``rear-paper``, ``rear-official`` or
    ``mmhal``; switches: changes to it (:class:`MMHalRules`), as JSON. judge_prompts: a folder with
    ``judge_rating.txt``. The others are those of every task.
    """
    from preftilt.eval.harness.solver import make_task, samples

    budget = Budget(max_judge_calls=max_judge_calls, max_tokens_total=max_tokens_total)
    rules = rules_for(preset, switches)
    chosen = choose_method(
        method_protocol(rules), lam=lam, search=search, n=n, method=method, settings=settings
    )
    check_wish(rules, chosen)
    items = load_items(data)
    pictures = load_pictures(data, items, fetch=fetch)
    return make_task(
        "mmhal",
        samples(case_of(item, pictures[item.id], rules) for item in items),
        method=chosen,
        budget=budget,
        judge=JUDGE,
        scorer=mmhal_ratings(judge_prompts, rules.junk, max_judge_calls, max_tokens_total, budget),
        protocol=rules.to_json(),
        items=len(items),
    )


@lazy_inspect.scorer(VALUES, by=("rating", "question_type"))
def mmhal_ratings(
    judge_prompts: str | None = None,
    junk: str = "unscored",
    max_judge_calls: int | None = None,
    max_tokens_total: int | None = None,
    budget: object = None,
) -> Scorer:
    """How informative an answer is and whether it makes something up, by one judgement of a judge who knows what is in
    the picture and does not see it. ``budget`` is the task's, shared with its solver."""
    from preftilt.eval.harness.judge import judge_within, judged, scoring

    prompts = load_templates("mmhal", "judge_{}.txt", GAPS, judge_prompts)
    one_of("junk", junk, ("unscored", "zero"))
    judge = judge_within(JUDGE, budget, max_judge_calls, max_tokens_total)

    async def score(state: TaskState, target: Target) -> Score:
        gaps = {
            "image_content": ", ".join(state.metadata["image_content"]),
            "question": str(state.metadata["question"]),
            "reference_answer": target.text,
            "response": state.output.completion,
        }
        said = await judge.ask(prompts.fill("rating", gaps), read_rating)
        rating = 0 if said.failure == "junk" and junk == "zero" else said.value
        return judged(
            rate(rating),
            {"rating": said},
            answer=state.output.completion,
            metadata={"wording": prompts.to_json()},
            budget=judge.budget,
        )

    return scoring(VALUES, score)
