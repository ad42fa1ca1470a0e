"""Verdicts on the answers that methods picked, each answer judged once, kept in a file and never asked for again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float

from preftilt.eval.answers import RecordedAnswer
from preftilt.eval.harness.benchmark import AnswerVerdict, Benchmark, Case
from preftilt.eval.reproduce.collecting import read_lines
from preftilt.eval.reproduce.measured import ItemMeasurements
from preftilt.eval.reproduce.methods import ComparedMethod
from preftilt.eval.runner import resumed

AT_ONCE = 400
"""Answers judged in one evaluation: what is lost if it is killed, but for what the judge's cache keeps."""

CaseAnswer = tuple[Case, str]
"""An answer's text to a case."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is known of answers: by :func:`mark`."""

    known: Mapping[str, AnswerVerdict]

    def of(self, item: ItemMeasurements, answer: RecordedAnswer) -> AnswerVerdict | None:
        return self.known.get(mark(item.case, answer.text))

    def value(self, item: ItemMeasurements, answer: RecordedAnswer, metric: str) -> float:
        """The metric of an answer, NaN where there is no verdict."""
        verdict = self.of(item, answer)
        value = None if verdict is None else verdict.values.get(metric)
        return float("nan") if value is None else value

    def rightness(self, metric: str) -> Callable[[ItemMeasurements, RecordedAnswer], float]:
        """The metric as a function of an item and an answer to it; 0 where there is no verdict."""

        def right(item: ItemMeasurements, answer: RecordedAnswer) -> float:
            value = self.value(item, answer, metric)
            return 0.0 if math.isnan(value) else value

        return right

    def values(
        self, method: ComparedMethod, items: Sequence[ItemMeasurements], metric: str
    ) -> Float[np.ndarray, "N"]:
        """A method's metric on every item; NaN where it was not measured or has no verdict."""
        rows = []
        for item in items:
            each = [self.value(item, answer, metric) for answer in method.pick(item)]
            rows.append(float(np.mean(each)) if each else float("nan"))
        return np.array(rows, dtype=np.float64)

    def calls(self, method: ComparedMethod, items: Sequence[ItemMeasurements]) -> float | None:
        """Judge calls an item for the answers that a method gave; None over no item."""
        counts = [
            sum(verdict.calls for answer in picked if (verdict := self.of(item, answer)))
            for item in items
            if (picked := method.pick(item))
        ]
        return float(np.mean(counts)) if counts else None


def mark(case: Case, text: str) -> str:
    """The name of an answer to a case in the file of verdicts: whichever repeat gave it."""
    return f"{case.marked_id} {sha256(text.encode()).hexdigest()[:16]}"


def picked(
    contenders: Iterable[ComparedMethod], items: Sequence[ItemMeasurements]
) -> list[CaseAnswer]:
    """Every distinct answer that some method gives to some item."""
    wanted = {
        mark(item.case, answer.text): (item.case, answer.text)
        for method in contenders
        for item in items
        for answer in method.pick(item)
    }
    return list(wanted.values())


def settle(
    benchmark: Benchmark,
    wanted: Sequence[CaseAnswer],
    path: Path,
    on_item: Callable[[int, int], None] | None = None,
) -> Verdicts:
    """Verdicts on ``wanted``. Those that the file lacks are found now and written; judgements that failed are not
    written, so that the next run asks for them again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {
        id: AnswerVerdict(record["values"], record["calls"], record["failure"])
        for id, record in read_lines(path).items()
    }
    left = [(case, text) for case, text in wanted if mark(case, text) not in known]
    journal = resumed(path)
    try:
        for start in range(0, len(left), AT_ONCE):
            some = left[start : start + AT_ONCE]
            if benchmark.check is not None:
                verdicts = [AnswerVerdict(benchmark.check(case, text)) for case, text in some]
            else:
                assert benchmark.judge is not None
                verdicts = benchmark.judge(some)
            for (case, text), verdict in zip(some, verdicts, strict=True):
                id = mark(case, text)
                known[id] = verdict
                if verdict.failure is None:
                    journal.write({"id": id, **asdict(verdict)})
            if on_item is not None:
                on_item(len(known), len(known.keys() | {mark(*answer) for answer in left}))
    finally:
        journal.close()
    return Verdicts(known)
