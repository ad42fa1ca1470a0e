"""The scorer of the mathematics tasks: the answer, and what every way of choosing makes of the same candidates."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from preftilt.eval.harness.scores import metrics_for, no_answer, numbers
from preftilt.eval.harness.solver import RECORD, SPENT
from preftilt.eval.maths.checking import same_answer
from preftilt.eval.maths.pool import CHOICES, Check, choose, columns, solved
from preftilt.eval.maths.solvers import GREEDY
from preftilt.eval.provider import PreftiltAPI
from preftilt.rivals.extractors import final_answer

COUNTS = ("no_answer", "unchecked", "over_budget")
"""What is counted: answers without a final answer (they are wrong), answers whose check took too long (they have no
score), and items that the budget did not allow."""


@scorer(metrics=metrics_for(["correct", "greedy", *(f"{choice}*" for choice in CHOICES)], COUNTS))
def maths_answers(curve_of: list[int] | None = None, greedy: bool = True) -> Scorer:
    """Whether the answer is right, and whether other choices from the same candidates are.

    curve_of: sizes at which the pool is looked at besides its own. greedy: whether there is a greedy answer to check.
    """
    sizes = curve_of or []

    async def score(state: TaskState, target: Target) -> Score:
        with_pool = isinstance(get_model().api, PreftiltAPI)
        names = ["correct", *(["greedy"] if greedy and with_pool else [])]
        names += columns(sizes) if with_pool else []
        spent = state.store.get(SPENT)
        if spent is not None:
            return _uncounted(no_answer(names, spent, of_judge=False))
        return _score(state, names, sizes, _check(target.text))

    return score


def _score(state: TaskState, names: list[str], sizes: list[int], right: Check) -> Score:
    text = state.output.completion
    values = {"correct": _right(text, right)}
    first = state.store.get(GREEDY)
    if first is not None:
        values["greedy"] = _right(first, right)
    record = state.store.get(RECORD)
    if record is not None and len(names) > 2:
        values |= choose(solved(record), sizes, right)
    final = final_answer(text)
    unchecked = values["correct"] is None
    counted = {"no_answer": float(final is None), "unchecked": float(unchecked), "over_budget": 0.0}
    return Score(
        value=numbers(dict.fromkeys(names) | values) | counted,
        answer=final,
        explanation="checking this answer took too long" if unchecked else None,
        reason="invalid_response_format" if final is None else None,
    )


def _right(text: str, right: Check) -> float | None:
    final = final_answer(text)
    verdict = False if final is None else right(final)
    return None if verdict is None else float(verdict)


def _check(gold: str) -> Callable[[str], bool | None]:
    """A check that looks at each answer once: a pool repeats its answers, and its sizes all of them."""

    @cache
    def right(answer: str) -> bool | None:
        return same_answer(gold, answer)

    return right


def _uncounted(score: Score) -> Score:
    assert isinstance(score.value, dict)
    value = dict.fromkeys(COUNTS, 0.0) | score.value
    return Score(value=value, reason=score.reason, explanation=score.explanation)
