"""PrefEval: answers judged by its checks (explicit, persona), or a choice among four options (no judge)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from preftilt.errors import BadInput
from preftilt.eval.harness.budget import Budget
from preftilt.eval.prefeval.conversations import (
    ShownOptions,
    inserted,
    question_text,
    request_for,
    shuffled,
)
from preftilt.eval.prefeval.data import TOPICS, Form, PrefEvalItem, load_filler, load_items
from preftilt.eval.prefeval.protocol import PrefEvalRules, method_protocol, rules_for
from preftilt.eval.prefeval.verdicts import read_choice
from preftilt.eval.reproduce.benchmark import (
    Benchmark,
    Case,
    Opening,
    QualityPart,
    Values,
    verdicts_mark,
)
from preftilt.eval.reproduce.judging import judged_by
from preftilt.messages import Message

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer

SHUFFLE_SEED = 0
"""Of the options' order, as in ``prefeval_mcq``."""

ROWS = sum(TOPICS.values())


def open_judged(form: Form, opening: Opening) -> Benchmark:
    """Two calls of the judge an answer: what the headline number needs."""
    data, rules = opening.folder("PrefEval"), _rules(form, opening)
    items = load_items(data, form)
    test, validation = opening.split(items)

    def scorer(budget: Budget) -> Scorer:
        from preftilt.eval.prefeval.scorers import prefeval_checks

        return prefeval_checks(
            checks=2,
            judge_prompts=opening.judge_prompts,
            judge_junk=rules.judge_junk,
            budget=budget,
        )

    name = f"prefeval-{form}"
    return Benchmark(
        name=name,
        title=f"PrefEval, {form}",
        metrics=("following", "unhelpful", "violates"),
        fault="violates",
        parts=(
            QualityPart("unhelpful", "helpful (%)", inverted=True),
            QualityPart("violates", "preference kept (%)", inverted=True),
        ),
        protocol=method_protocol(rules, mcq=False),
        switches={**rules.to_json(), "checks": 2, "rows there": f"{len(items)} of {ROWS}"},
        test=lambda turns: [_case(item, rules, _filler(data, turns, rules)) for item in test],
        validation=lambda: [_case(item, rules, ()) for item in validation],
        contexts=True,
        judge=judged_by(name, scorer, opening),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


def open_choice(opening: Opening) -> Benchmark:
    """The implicit choice as multiple choice, which the paper reports by accuracy."""
    data, rules = opening.folder("PrefEval"), _rules("choice", opening)
    items = load_items(data, "choice", options=True)
    test, validation = opening.split(items)

    def case(item: PrefEvalItem, turns: int) -> Case:
        options = shuffled(item, SHUFFLE_SEED)
        return _case(item, rules, _filler(data, turns, rules), options)

    return Benchmark(
        name="prefeval-choice",
        title="PrefEval, implicit choice",
        metrics=("correct", "no choice made"),
        fault="no choice made",
        protocol=method_protocol(rules, mcq=True),
        switches={
            **rules.to_json(),
            "shuffle_seed": SHUFFLE_SEED,
            "rows there": f"{len(items)} of {ROWS}",
        },
        test=lambda turns: [case(item, turns) for item in test],
        validation=lambda: [case(item, 0) for item in validation],
        contexts=True,
        answers="letter",
        check=_chosen,
        verdicts=repr(SHUFFLE_SEED),
    )


def _rules(form: Form, opening: Opening) -> PrefEvalRules:
    rules = rules_for(opening.preset, form, opening.switches)
    if rules.preference_as != "system":
        raise BadInput(
            "preference_as=history has the model speak before it is asked, and an experiment draws all candidates at"
            f" once: run inspect eval preftilt/prefeval_{form} for that"
        )
    return rules


def _filler(data: str, turns: int, rules: PrefEvalRules) -> Sequence[Message]:
    return inserted(load_filler(data), turns, rules.counting) if turns else ()


def _case(
    item: PrefEvalItem,
    rules: PrefEvalRules,
    filler: Sequence[Message],
    options: ShownOptions | None = None,
) -> Case:
    question = question_text(item, rules, "zero-shot", options)
    facts = {"preference": item.preference, "question": item.question}
    if options is not None:
        facts["fitting"] = options.fitting
    return Case(item.id, request_for(item, rules, question, filler), facts)


def _chosen(case: Case, answer: str) -> Values:
    """An answer without a choice is wrong, and counted."""
    letter = read_choice(answer)
    return {
        "correct": float(letter == case.facts["fitting"]),
        "no choice made": float(letter is None),
    }
