"""Ways to answer a user, by name: the same names as the scoring rules whose decoding or choice they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from preftilt.defaults import REDUCTION
from preftilt.engines.memo import MemoEngine
from preftilt.errors import BadInput
from preftilt.eval.accuracy.context import TokenisedComparison, with_examples
from preftilt.eval.accuracy.naming import parse_rule
from preftilt.eval.accuracy.rules import (
    EXAMPLES,
    FromExamplesRule,
    GuidedDecodingRule,
    InContextExamplesRule,
    MixingRule,
    RearRule,
)
from preftilt.prompt import build_question
from preftilt.reward import Reward
from preftilt.run import Run, check_guided, fit_max_tokens
from preftilt.search import BestOfN, Greedy, LinearAlignment, Search
from preftilt.types import Candidate, Guide, Query, Reduction, Sampling, Stream

Evidence = Literal["none", "stated", "examples"]
"""What a method is told of the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """How answers are drawn: greedily, but for best-of-``n``, which draws by ``sampling`` and adds up by ``reduction``.

    max_tokens: of an answer, at most. seed: of the random streams.
    """

    n: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    reduction: Reduction = REDUCTION
    max_tokens: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise BadInput(
                f"n and max_tokens must be at least 1, not {self.n} and {self.max_tokens}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMethod:
    """A way to answer; ``rule`` is what it goes by, and tells its discrimination."""

    rule: MixingRule
    evidence: Evidence
    search: Search
    lam: float = 1.0
    count: int = EXAMPLES

    @property
    def name(self) -> str:
        return self.rule.name

    def query(self, context: TokenisedComparison, room: int) -> tuple[Query, int | None]:
        """The prompts for a question, with ``room`` tokens for the answer, and how many examples are in them.

        Raises :class:`~preftilt.errors.BadInput` if the question lacks what the method is told.
        """
        if self.evidence == "examples":
            query, used = with_examples(context, self.count, room)
            return _at(query, self.lam), used
        if self.evidence == "stated":
            return _at(context.stated(), self.lam), None
        setup = context.setup
        bare = replace(setup.prompt, against=None)
        return build_question(setup.engine.tokenizer, context.item.messages, bare), None


def parse_methods(names: Sequence[str], drawing: AnswerSettings) -> list[AnswerMethod]:
    """The methods of these ``names``, each once, in order."""
    return list({name: parse_method(name, drawing) for name in names}.values())


def parse_method(name: str, drawing: AnswerSettings) -> AnswerMethod:
    """``base``, ``icl=4``, ``rear=3``, ``cfg-icl=3``, …: the rules that a language model alone can go by."""
    rule = parse_rule(name)
    best = BestOfN(n=drawing.n)
    match rule:
        case RearRule():
            return AnswerMethod(rule=rule, evidence="stated", search=best, lam=rule.lam)
        case FromExamplesRule(guide=guide, count=count, mode="unnormalised"):
            lam = guide.strength or 0.0
            return AnswerMethod(rule=rule, evidence="examples", search=best, lam=lam, count=count)
        case FromExamplesRule(guide=guide, count=count):
            search = _guided(guide)
            return AnswerMethod(rule=rule, evidence="examples", search=search, count=count)
        case GuidedDecodingRule(guide=guide):
            return AnswerMethod(rule=rule, evidence="stated", search=_guided(guide))
        case InContextExamplesRule(count=count):
            return AnswerMethod(rule=rule, evidence="examples", search=Greedy(), count=count)
    if rule.name in ("base", "prompted"):
        assert isinstance(rule, MixingRule)
        evidence: Evidence = "none" if rule.name == "base" else "stated"
        return AnswerMethod(rule=rule, evidence=evidence, search=Greedy())
    raise BadInput(
        f"{name} ranks answers and does not write any here; the methods are base, prompted, icl=K, rear=λ, rear-icl=λ,"
        " cfg=λ, cfg-icl=λ, linear-alignment, amulet, amulet-icl, la-author"
    )


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


def _at(query: Query, lam: float) -> Query:
    return replace(query, lam=lam)


def _guided(guide: Guide) -> LinearAlignment:
    """Guided decoding with the rule's λ; a mask and λ are all there is to the family (``guided/combine.py``)."""
    mask = guide.mask
    ratio = (guide.strength or 0.0) - 1.0
    if mask is None:
        return LinearAlignment(ratio=ratio)
    return LinearAlignment(
        ratio=ratio,
        mask_top_p=mask.top_p,
        mask_from=mask.of,
        mask_temperature=mask.temperature,
    )
