"""Behaviour against the user's own words: what methods generate, beside what the user wrote.

After the direct behavioural evaluation of Rezk et al. ("The Reward Model Selection Crisis in Personalized Alignment",
arXiv 2512.23067): a user's past examples and the true completion are given, answers are compared with it by ROUGE, and
the methods' discrimination (policy accuracy) stands beside their generation. Methods have the names of the scoring
rules whose decoding or choice they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from preftilt.declare import check_settings, setting
from preftilt.engines.memo import MemoEngine
from preftilt.errors import BadInput
from preftilt.eval import report as eval_report
from preftilt.eval.accuracy.behaviour_report import (
    Discrimination,
    check_rouge,
    draw,
    markdown,
    report,
    rouge,
)
from preftilt.eval.accuracy.comparisons import (
    Comparison,
    ScoringSetup,
    TokenisedComparison,
    make_context,
    with_examples,
)
from preftilt.eval.accuracy.evaluate import StudyOptions, carry_out
from preftilt.eval.accuracy.measure import RecordStore, collect
from preftilt.eval.accuracy.report import report as accuracy_report
from preftilt.eval.accuracy.rules import EXAMPLES, ViewRule, parse_rule
from preftilt.prompt import answer_text, build_query
from preftilt.reward import REDUCTION, Reward
from preftilt.run import Run, check_guided, fit_max_tokens
from preftilt.search import BestOfN, Greedy, LinearAlignment, Search
from preftilt.types import Candidate, Query, Reduction, Sampling, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """How answers are drawn: greedily, but for best-of-``n``, which draws by ``sampling`` and adds up by ``reduction``.

    Attributes:
        n: answers that rear picks from.
        sampling: of these answers.
        reduction: of rear's token scores.
        max_tokens: of an answer.
        seed: of the random streams and the bootstrap.
    """

    n: int = setting(8, least=1, flags=("--n", "-n"))
    sampling: Sampling = field(default_factory=Sampling)
    reduction: Reduction = REDUCTION
    max_tokens: int = setting(160, least=1)
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMethod:
    """A way to answer; ``rule`` is what it goes by, and tells its discrimination."""

    rule: ViewRule
    search: Search
    lam: float = 1.0

    @property
    def name(self) -> str:
        return self.rule.name

    def query(self, context: TokenisedComparison, room: int) -> tuple[Query, int | None]:
        """The prompts for a question, with ``room`` tokens for the answer, and how many examples are in them.

        Raises :class:`~preftilt.errors.BadInput` if the question lacks what the method is told.
        """
        if self.rule.evidence == "examples":
            query, used = with_examples(context, self.rule.count, room)
            return replace(query, lam=self.lam), used
        if self.rule.evidence == "stated":
            return replace(context.stated(), lam=self.lam), None
        bare = replace(context.setup.prompt, against=None)
        return build_query(context.engine.tokenizer, context.item.messages, (), settings=bare), None


def parse_methods(names: Sequence[str], drawing: AnswerSettings) -> list[AnswerMethod]:
    """The methods of these ``names``, each once, in order."""
    return list({name: parse_method(name, drawing) for name in names}.values())


def parse_method(name: str, drawing: AnswerSettings) -> AnswerMethod:
    """``base``, ``icl=4``, ``rear=3``, ``cfg-icl=3``, …: the rules that a language model alone can go by."""
    rule = parse_rule(name)
    if not isinstance(rule, ViewRule):
        raise BadInput(
            f"{name} ranks answers and does not write any here; the methods are base, prompted, icl=K, rear=λ,"
            " rear-icl=λ, cfg=λ, cfg-icl=λ, linear-alignment, amulet, amulet-icl, la-author"
        )
    if rule.guide is None:
        return AnswerMethod(rule=rule, search=Greedy())
    if rule.mode == "unnormalised":
        lam = rule.guide.strength or 0.0
        return AnswerMethod(rule=rule, search=BestOfN(n=drawing.n), lam=lam)
    # Guided decoding with the rule's λ: a mask and λ are all there is to the family (``guided.combine``).
    search = LinearAlignment(ratio=(rule.guide.strength or 0.0) - 1.0)
    if (mask := rule.guide.mask) is not None:
        search = replace(
            search, mask_top_p=mask.top_p, mask_from=mask.of, mask_temperature=mask.temperature
        )
    return AnswerMethod(rule=rule, search=search)


def default_methods(*, preferences: bool, examples: bool) -> list[str]:
    """The names of the methods that are compared if none is named: those that the data allow."""
    names = ["base"]
    if examples:
        names += [f"icl={EXAMPLES}", "rear-icl=3", "cfg-icl=3"]
    if preferences:
        names += ["prompted", "rear=3", "rear=20", "linear-alignment"]
    return names


async def answer(
    context: TokenisedComparison, method: AnswerMethod, drawing: AnswerSettings
) -> tuple[Candidate, int | None]:
    """The answer that ``method`` gives, and how many examples it has read; equal draws of methods are made once."""
    query, used = method.query(context, drawing.max_tokens)
    engine = context.engine
    greedy = isinstance(method.search, LinearAlignment)
    run = Run(
        engine=engine,
        query=query,
        sampling=Sampling(temperature=0) if greedy else drawing.sampling,
        reward=Reward(reduction=drawing.reduction),
        stream=Stream(drawing.seed, context.item.id),
        max_tokens=fit_max_tokens(query, engine.capabilities.max_context, drawing.max_tokens),
    )
    outcome = await run.search(method.search)
    return outcome.ranked[0], used


def check(
    context: TokenisedComparison, methods: Sequence[AnswerMethod], drawing: AnswerSettings
) -> None:
    """Raises :class:`~preftilt.errors.BadInput` for what could not be answered, before anything is drawn."""
    for method in methods:
        query, _ = method.query(context, drawing.max_tokens)
        check_guided(context.engine, method.search, query, None)
        fit_max_tokens(query, context.engine.capabilities.max_context, drawing.max_tokens)


def remembering(context: TokenisedComparison) -> TokenisedComparison:
    """The context on an engine that draws and scores nothing twice."""
    setup = replace(context.setup, engine=MemoEngine(context.engine))
    return replace(context, setup=setup)


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
    rules = [method.rule for method in methods]
    return report(questions, records, rules, beside, about)


def write_report(numbers: Mapping[str, Any], out: Path, command: str) -> str:
    """``report.json``, ``report.md`` and ``behaviour.png`` in ``out``; returns the Markdown."""
    text = partial(markdown, numbers, command)
    return eval_report.write_report(numbers, out, text, partial(draw, numbers), "behaviour.png")


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
