"""Behaviour from end to end: users' questions and methods in, records and a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput
from preftilt.eval.accuracy.context import ScoringSetup, TokenisedComparison, make_context
from preftilt.eval.accuracy.evaluate import StudyOptions, carry_out
from preftilt.eval.accuracy.pairs import Comparison
from preftilt.eval.accuracy.records import RecordStore, collect
from preftilt.eval.accuracy.report import report as accuracy_report
from preftilt.eval.behaviour.figures import draw
from preftilt.eval.behaviour.markdown import markdown
from preftilt.eval.behaviour.methods import AnswerMethod, AnswerSettings, answer, check, remembering
from preftilt.eval.behaviour.report import Discrimination, report
from preftilt.eval.behaviour.rouge import check_rouge, rouge
from preftilt.prompt import answer_text
from preftilt.records import write_json, write_text

SCHEMA = "preftilt.behaviour/1"

AnswerCheck = Callable[[str, str], Mapping[str, float]]
"""A question's id and an answer → more numbers about the answer, where there is an exact checker."""


def no_verdict(id: str, text: str) -> Mapping[str, float]:
    """Where there is no checker."""
    return {}


async def behaviour(
    setup: ScoringSetup,
    questions: Sequence[Comparison],
    methods: Sequence[AnswerMethod],
    out: Path,
    drawing: AnswerSettings,
    options: StudyOptions,
    *,
    reference: str | None = None,
    verdict: AnswerCheck = no_verdict,
    on_item: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Answer ``questions`` by every method, compare with what the users wrote, and return the report.

    Records go to ``out/records.jsonl``. Where every question has a dispreferred response, the methods' policy accuracy
    is measured on the same questions (``out/discrimination``) and stands beside their generation. ``reference`` is the
    method that the others are compared with, question by question; None takes the in-context examples, or the first.
    Everything that can be refused is refused before the first token, with :class:`~preftilt.errors.BadInput`.
    """
    check_rouge()
    names = [method.name for method in methods]
    compared = reference or next((name for name in names if name.startswith("icl=")), names[0])
    if compared not in names:
        raise BadInput(f"the reference {compared!r} is none of the methods: {', '.join(names)}")
    contexts = [make_context(setup, item) for item in questions]
    for context in contexts:
        check(context, methods, drawing)
    how = {
        "methods": names,
        "drawing": asdict(drawing),
        "prompt": asdict(setup.prompt),
        "model": dict(options.identity) or {"model": setup.engine.name},
    }
    store = RecordStore(
        path=out / "records.jsonl",
        how=how,
        schema=SCHEMA,
        resume=options.resume,
        force=options.force,
    ).of(contexts)
    store.known(
        [context.item for context in contexts]
    )  # Refuses before anything is measured, not after.
    beside = await _discrimination(setup, questions, methods, out, options)
    work = partial(_answers, methods=methods, drawing=drawing, verdict=verdict)
    records = await collect(store, contexts, work, in_flight=options.in_flight, on_item=on_item)
    about = {"model": setup.engine.name, "versions": setup.engine.versions, **options.about}
    about |= {"reference": compared, "drawing": asdict(drawing), "seed": options.seed}
    return report(questions, records, methods, beside, about)


def write_report(numbers: Mapping[str, Any], out: Path, command: str) -> str:
    """``report.json``, ``report.md`` and ``behaviour.png`` in ``out``; returns the Markdown."""
    drawn = find_spec("matplotlib") is not None
    if drawn:
        draw(numbers, out / "behaviour.png")
    text = markdown(numbers, command, "behaviour.png" if drawn else None)
    write_text(out / "report.md", text)
    write_json(out / "report.json", numbers)
    return text


async def _answers(
    context: TokenisedComparison,
    *,
    methods: Sequence[AnswerMethod],
    drawing: AnswerSettings,
    verdict: AnswerCheck,
) -> dict[str, Any]:
    """Every method's answer to a question, for its record."""
    shared = remembering(context)
    by_method: dict[str, Any] = {}
    for method in methods:
        candidate, used = await answer(shared, method, drawing)
        text = answer_text(context.engine.tokenizer, candidate.tokens).strip()
        by_method[method.name] = {
            "text": text,
            "tokens": len(candidate.tokens),
            "finished": candidate.finished,
            "examples": used,
            "scores": {**rouge(context.item.chosen, text), **verdict(context.item.id, text)},
        }
    return {"methods": by_method}


async def _discrimination(
    setup: ScoringSetup,
    questions: Sequence[Comparison],
    methods: Sequence[AnswerMethod],
    out: Path,
    options: StudyOptions,
) -> Discrimination | None:
    """The policy accuracy of the methods' rules on the same questions, if these are pairs."""
    if not all(question.rejected for question in questions):
        return None
    rules = [method.rule for method in methods]
    study_options = replace(options, lambdas=(), modes=())
    study_records, study, about = await carry_out(
        setup, questions, rules, out / "discrimination", study_options
    )
    return Discrimination(accuracy_report(study_records, study, about)["rules"], study_records)
