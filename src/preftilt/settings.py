"""Everything that shapes a request besides its words, reward models among it.

A trained autoregressive reward model (ARM) is one more view of a response, read under the prompt that answers are drawn
from, as in the papers: log π ∝ log π_base + Σ_i w_i log π_ARM,i (GenARM, ICLR 2025; PARM, ICML 2025). The same sum
ranks whole responses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from preftilt.arm.spec import parse_alpha
from preftilt.declare import check_settings, setting
from preftilt.engines.base import KnownArm
from preftilt.errors import BadInput
from preftilt.prompt import PromptSettings
from preftilt.reward import LAMBDA, LAMBDA_OF_TOKENS, Reward
from preftilt.rivals import ByLogprob, Method, check_search
from preftilt.search import AutoSearch, Sample, Search, default_lam, default_search
from preftilt.types import ArmTerm, Query, Reader, Sampling

PREFIX = "arm:"
"""What the name of an ARM's view begins with; its own name follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSettings:
    """Which trained reward models (autoregressive reward models, ARMs) take part in a request's score.

    Attributes:
        names: of ARMs that the engine has open (``EngineOptions.arms``).
        alpha: how much each objective counts, e.g. ``help=0.7,harmless=0.3``. An ARM of several objectives reads for
            that mix of them; where every ARM has one objective, it shares out their weight.
        weight: w of their log-probs beside the base model's 1. It is 1/β of GenARM (ICLR 2025).
        weights: pairs of an ARM's name and a weight of its own.

    Raises:
        BadInput: for a weight that is not finite, and a name that stands twice.
    """

    names: tuple[str, ...] = ()
    alpha: str = setting("", metavar="NAME=X,…", told="none; amulet, 2")
    weight: float = setting(1.0, alias="arm_weight", metavar="[NAME=]W", repeats=True)
    weights: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)
        for name, weight in self.weights:
            if not math.isfinite(weight):
                raise BadInput(f"arm_weight of {name} is {weight}; give a number")
        for names in (self.names, [name for name, _ in self.weights]):
            if len(set(names)) < len(names):
                raise BadInput(f"a reward model is named twice: {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class WeightedReader:
    """An ARM as the reader of a view, and the weight of its log-probs."""

    reader: Reader
    weight: float


def resolve(
    settings: ArmSettings, known: Sequence[KnownArm], engine: str
) -> tuple[WeightedReader, ...]:
    """What ``settings`` come to with the ARMs that ``engine`` has open.

    Raises :class:`~preftilt.errors.BadInput` for an ARM that is not open, a preference vector that does not fit, and
    settings of ARMs where none is named.
    """
    if not settings.names:
        if settings != ArmSettings():
            raise BadInput(
                "alpha and arm_weight are about reward models, and none is named; name one (--arm NAME=FOLDER; in a"
                ' request "arm": NAME), or leave them out'
            )
        return ()
    arms = [_find(name, known, engine) for name in settings.names]
    if idle := [name for name, _ in settings.weights if name not in settings.names]:
        raise BadInput(
            f"arm_weight names {', '.join(idle)}; in use are {', '.join(settings.names)}"
        )
    shares = _shares(arms, settings.alpha)
    own = dict(settings.weights)
    return tuple(
        WeightedReader(
            Reader(arm.name, _vector(arm, settings.alpha)),
            share * own.get(arm.name, settings.weight),
        )
        for arm, share in zip(arms, shares, strict=True)
    )


def with_arms(query: Query, reads: Sequence[WeightedReader]) -> Query:
    """``query`` with a view for each of ``reads``; without preferences λ is the largest weight, and scales them all."""
    if not reads:
        return query
    views = [
        replace(
            query.views[0],
            name=PREFIX + weighted.reader.arm,
            prompt=query.prompt,
            weight=weighted.weight,
            reader=weighted.reader,
        )
        for weighted in reads
    ]
    weights = [weighted.weight for weighted in reads]
    if query.ratios:
        return replace(
            query,
            views=(*query.views, *views),
            arms=tuple(ArmTerm(weight, 0.0) for weight in weights),
        )
    lam = max(weights, key=abs)
    return replace(
        query,
        views=(*query.views, *views),
        lam=lam,
        arms=tuple(ArmTerm(0.0, weight / lam if lam else 1.0) for weight in weights),
    )


def _find(name: str, known: Sequence[KnownArm], engine: str) -> KnownArm:
    arm = next((arm for arm in known if arm.name == name), None)
    if arm is not None:
        return arm
    has = f"; it has {', '.join(arm.name for arm in known)}" if known else ""
    raise BadInput(
        f"{engine} has no reward model {name!r} open{has}: open one with --arm NAME=FOLDER, beside a model in this"
        " process (--model with its hub id or path; in the library EngineOptions(arms={NAME: FOLDER}))"
    )


def _vector(arm: KnownArm, alpha: str) -> tuple[float, ...]:
    if len(arm.objectives) == 1:
        return (1.0,)
    if not alpha:
        names = [objective.name for objective in arm.objectives]
        even = ",".join(f"{name}={1 / len(names):.2g}" for name in names)
        raise BadInput(
            f"the reward model {arm.name!r} weighs {' and '.join(names)}: say how much each counts, e.g. --alpha {even}"
        )
    return parse_alpha(alpha, arm.objectives)


def _shares(arms: Sequence[KnownArm], alpha: str) -> Sequence[float]:
    """What share of its weight every ARM gets: a vector over ARMs of one objective each shares it out."""
    if not alpha or any(len(arm.objectives) > 1 for arm in arms):
        return [1.0] * len(arms)
    objectives = {arm.objectives[0].name: arm.objectives[0] for arm in arms}
    vector = parse_alpha(alpha, tuple(objectives.values()))
    share = dict(zip(objectives, vector, strict=True))
    return [share[arm.objectives[0].name] for arm in arms]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that shapes a request besides its words; immutable, and recorded in the result.

    Attributes:
        lam: strength λ of every preference without its own; 1 is the model as it is, and under cfg it is that of every
            token. None takes the default of the search in use: 2 where every token is guided
            (:class:`~preftilt.search.CFG`), else 20. The result says which it was.
        search: how the answer is searched for; auto lets the engine decide: cfg where it can guide decoding, and
            best-of-n where it only draws and scores. See :class:`~preftilt.search.AutoSearch`.
        method: what picks the answer among the candidates.
        sampling: temperature and filters of drawing.
        reward: how per-token log-probs become a score.
        prompt: where preferences stand in the prompt.
        arms: trained reward models that take part in the score.
        max_tokens: tokens of an answer. None takes 512 or what the context leaves, whichever is less.
        seed: the same seed gives the same answers.

    Raises:
        BadInput: for a value out of range, and for a method that does not go with the search.
    """

    lam: float | None = setting(
        None, alias="lambda", told=f"{LAMBDA:g}; cfg, {LAMBDA_OF_TOKENS['cfg']:g}"
    )
    search: Search = field(default_factory=AutoSearch)
    method: Method = field(default_factory=ByLogprob)
    sampling: Sampling = field(default_factory=Sampling)
    reward: Reward = field(default_factory=Reward)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    arms: ArmSettings = field(default_factory=ArmSettings)
    max_tokens: int | None = setting(None, least=1, told="512 or what fits")
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        check_search(self.method, self.search)

    @property
    def strength(self) -> float:
        """λ of a preference without its own: ``lam``, or the search's default."""
        return default_lam(self.search) if self.lam is None else self.lam


def settled(
    settings: Settings, guides: bool, *, answers: int = 1, prefers: bool = True
) -> Settings:
    """``settings`` with the search and λ decided that they leave open; ``guides`` as in :func:`default_search`.

    answers: how many the request wants back; a guided search that names no number draws so many. prefers: it has a
    preference or a reward model; one without is answered by the model as it is.
    """
    if isinstance(settings.search, AutoSearch) and not prefers and settings.search.n is None:
        settings = replace(settings, search=Sample())
    elif isinstance(settings.search, AutoSearch):
        picks = settings.method != ByLogprob()  # It needs answers to pick from.
        guides, n = guides and not picks, settings.search.n
        if guides and n is None and answers > 1:
            n = answers
        search = default_search(guides, n, draws=settings.sampling != Sampling())
        settings = replace(settings, search=search)
    return replace(settings, lam=settings.strength)
