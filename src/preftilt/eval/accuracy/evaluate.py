"""Policy accuracy from end to end: comparisons and rules in, records and a report out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from preftilt.engines.base import Engine
from preftilt.errors import BadInput, PromptTooLong
from preftilt.eval import report as eval_report
from preftilt.eval.accuracy.comparisons import (
    Comparison,
    ScoringSetup,
    TokenisedComparison,
    make_context,
)
from preftilt.eval.accuracy.measure import RecordStore, blends_of, collect, measured
from preftilt.eval.accuracy.report import (
    Study,
    StudyRecords,
    can_draw,
    draw,
    markdown,
    report,
    users_table,
)
from preftilt.eval.accuracy.rules import MODES, Mode, Rule
from preftilt.records.lines import write_text
from preftilt.settings import resolve

NO_POLICY = (
    "The policy mode is left out: this engine tells log-probs of given tokens only, and normalising needs those of the"
    " whole vocabulary. A model opened in this process (`--model` with its hub id or path) has it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """How a study is carried out.

    lambdas: of the sweep. modes: those asked for; empty for all that the engine has. drop_long: leave out what does not
    fit the context, instead of refusing it. in_flight: comparisons at once. resume, force: what to do with records that
    are there. identity: what tells one way of opening the models from another. about: goes into the report as it is.
    """

    lambdas: tuple[float, ...] = ()
    modes: tuple[Mode, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    drop_long: bool = False
    in_flight: int = 32
    resume: bool = False
    force: bool = False


async def policy_accuracy(
    setup: ScoringSetup,
    comparisons: Sequence[Comparison],
    rules: Sequence[Rule],
    out: Path,
    options: StudyOptions | None = None,
    *,
    on_item: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure ``rules`` on ``comparisons`` and return the report; records go to ``out/records.jsonl``.

    Everything that can be refused is refused before the first token, with :class:`~preftilt.errors.BadInput`.
    """
    options = options or StudyOptions()
    records, study, about = await carry_out(
        setup, comparisons, rules, out, options, on_item=on_item
    )
    return report(records, study, about)


async def carry_out(
    setup: ScoringSetup,
    comparisons: Sequence[Comparison],
    rules: Sequence[Rule],
    out: Path,
    options: StudyOptions,
    *,
    on_item: Callable[[int], None] = lambda done: None,
) -> tuple[StudyRecords, Study, dict[str, Any]]:
    """As :func:`policy_accuracy`: the records, what they are of, and what the report says of how they were made."""
    engine = setup.engine
    modes, notes = _modes(engine, options.modes)
    study = Study(rules=tuple(rules), lambdas=options.lambdas, modes=modes, seed=options.seed)
    contexts, left_out = prepare(setup, comparisons, study, drop_long=options.drop_long)
    how = {
        "rules": [rule.name for rule in study.measured],
        "policy": "policy" in modes,
        "prompt": asdict(setup.prompt),
        "arms": asdict(setup.arms),
        "model": dict(options.identity) or {"model": engine.name},
    }
    store = RecordStore(
        path=out / "records.jsonl", how=how, resume=options.resume, force=options.force
    )
    records = await collect(
        store,
        contexts,
        partial(measured, rules=study.measured, policy="policy" in modes),
        in_flight=options.in_flight,
        on_item=on_item,
    )
    study_records = StudyRecords([context.item for context in contexts], records)
    about = {"model": engine.name, "versions": engine.versions, "notes": notes, **options.about}
    about["left_out"] = {**about.get("left_out", {}), **left_out}
    write_text(out / "users.csv", users_table(study_records, study))
    return study_records, study, about


def prepare(
    setup: ScoringSetup, comparisons: Sequence[Comparison], study: Study, *, drop_long: bool
) -> tuple[list[TokenisedComparison], dict[str, int]]:
    """What the model will read; and how many comparisons were left out because they are too long for it."""
    engine = setup.engine
    resolve(setup.arms, engine.capabilities.arms, engine.name)  # Its errors are of no comparison.
    contexts: list[TokenisedComparison] = []
    problems: list[PromptTooLong] = []
    for item in comparisons:
        try:
            context = make_context(setup, item)
            blends_of(context, study.measured)
        except PromptTooLong as failure:
            problems.append(failure)
        else:
            contexts.append(context)
    if problems and not (drop_long and contexts):
        raise PromptTooLong(
            f"{problems[0]} ({len(problems)} of {len(comparisons)} comparisons are too long; --drop-long leaves them"
            " out)"
        )
    return contexts, {"too long for the model's context": len(problems)} if problems else {}


def write_report(numbers: Mapping[str, Any], out: Path, command: str) -> str:
    """``report.json``, ``report.md`` and ``accuracy.png`` in ``out``; returns the Markdown."""
    text, file = partial(markdown, numbers, command), "accuracy.png" if can_draw(numbers) else None
    return eval_report.write_report(numbers, out, text, partial(draw, numbers), file)


def _modes(engine: Engine, wanted: Sequence[Mode]) -> tuple[tuple[Mode, ...], list[str]]:
    if engine.capabilities.normalises:
        return tuple(wanted or MODES), []
    if "policy" in wanted:
        raise BadInput(
            f"{engine.name} cannot normalise over the vocabulary, which the mode policy needs: open the model in this"
            " process (--model with its hub id or path), or leave that mode out"
        )
    return tuple(wanted or [mode for mode in MODES if mode != "policy"]), [NO_POLICY]
