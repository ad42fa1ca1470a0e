"""Problems with one final answer, checked by math-verify; no judge."""

from __future__ import annotations

from preftilt.eval.maths.checking import check_installed, same_answer
from preftilt.eval.maths.data import SOURCES, MathsProblem, SetName, load_items
from preftilt.eval.maths.protocol import method_protocol, request_for, rules_for
from preftilt.eval.reproduce.benchmark import Benchmark, Case, Opening, Values
from preftilt.rivals.extractors import final_answer

PREFERENCE = "full"
"""Which of the protocol's three texts is the preference; the switch ``preference`` takes another."""


def open_maths(name: SetName, opening: Opening) -> Benchmark:
    """Problems of AIME and AMC are answered ten times, as in the paper, unless the user says otherwise."""
    check_installed()
    data = opening.folder(name)
    rules = rules_for(opening.preset, PREFERENCE, opening.switches)
    items = load_items(data, name)
    test, validation = opening.split(items)

    def case(item: MathsProblem) -> Case:
        return Case(item.id, request_for(item, rules), {"answer": item.answer})

    return Benchmark(
        name=name,
        title=name.upper().replace("MATH500", "MATH-500"),
        metrics=("correct", "no answer"),
        fault="no answer",
        protocol=method_protocol(rules),
        switches={**rules.to_json(), "rows there": f"{len(items)} of {SOURCES[name].rows}"},
        test=lambda _: [case(item) for item in test],
        validation=lambda: [case(item) for item in validation],
        repeats=SOURCES[name].repeats,
        answers="maths",
        check=_right,
    )


def _right(case: Case, answer: str) -> Values:
    """An answer without a final answer is wrong; one whose comparison takes too long has no verdict."""
    final = final_answer(answer)
    if final is None:
        return {"correct": 0.0, "no answer": 1.0}
    verdict = same_answer(str(case.facts["answer"]), final)
    return {"correct": None if verdict is None else float(verdict), "no answer": 0.0}
