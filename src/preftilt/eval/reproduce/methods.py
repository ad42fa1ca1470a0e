"""The methods of the tables: what each picks from what was measured on an item, and what that cost.

Nothing here calls a model. A method that was not measured on an item picks nothing there, and its numbers are those of
the items on which it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from preftilt.eval.answers import RecordedAnswer, best_of, elected, first_by
from preftilt.eval.calibrate import LAMBDAS, REDUCTIONS
from preftilt.eval.reproduce.measured import AnswerCost, ItemMeasurements, SamplePool
from preftilt.eval.reproduce.parts import (
    BEST_OF,
    GUIDED,
    JUDGED,
    REWARD_MODEL,
    TREE,
    MeasureSettings,
    drawn_guidance,
)
from preftilt.reward import CUT_OFF, Reward, ScoreLine
from preftilt.rivals.methods import AnswerKind
from preftilt.rivals.votes import EXTRACTORS
from preftilt.streams import MASK64, stream_key
from preftilt.types import CutOff, Reduction, Stream

PickAnswers = Callable[[ItemMeasurements], Sequence[RecordedAnswer]]
"""The answers of a method to an item: one; several that count by their mean; none, if it was not measured."""

BOTH = frozenset({"question", "full"})
FULL, QUESTION, NEITHER = frozenset({"full"}), frozenset({"question"}), frozenset[str]()

GREEDY = "greedy"
SAMPLE = "one sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedMethod:
    """A method, which picks once on an item, however often it is asked.

    timed: the timed method that takes as long, None if none does. chosen: λ was chosen for it on validation items.
    oracle: it looks at verdicts, and is a bound and no method.
    """

    name: str
    pick: PickAnswers
    spent: Callable[[ItemMeasurements], AnswerCost]
    lam: float | None = None
    reduction: Reduction | None = None
    timed: str | None = None
    chosen: bool = False
    oracle: bool = False
    missing: Callable[[ItemMeasurements], int] = lambda _: 0

    def __post_init__(self) -> None:
        if not self.oracle:  # Verdicts may still come.
            object.__setattr__(self, "pick", _picking_once(self.pick))

    @property
    def label(self) -> str:
        """Its name with λ, for figures."""
        return self.name if self.lam is None else f"{self.name}, λ = {self.lam:g}"


def _picking_once(pick: PickAnswers) -> PickAnswers:
    picked: dict[int, tuple[ItemMeasurements, Sequence[RecordedAnswer]]] = {}

    def remembered(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        if id(item) not in picked:
            picked[id(item)] = (item, pick(item))  # With the item, so that no other gets its id.
        return picked[id(item)][1]

    return remembered


def greedy() -> ComparedMethod:
    """The most likely answer with the preference in the prompt."""
    return ComparedMethod(
        name=GREEDY,
        pick=lambda item: [] if item.greedy is None else [item.greedy.answer],
        spent=lambda item: AnswerCost() if item.greedy is None else item.greedy.spent,
        timed=GREEDY,
    )


def one_sample() -> ComparedMethod:
    return ComparedMethod(
        name=SAMPLE,
        pick=lambda item: first(item.pool, 1),
        spent=lambda item: _pool_spent(item, 1, NEITHER),
        timed=SAMPLE,
    )


def random_of(n: int, seed: int, *, exact: bool) -> ComparedMethod:
    """Any of ``n``: where verdicts cost nothing, the mean over all of them, which is what chance gives exactly."""

    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = first(item.pool, n)
        if exact or not drawn:
            return drawn
        stream = Stream(seed, f"{item.case.stream}\x1frandom pick")
        return [max(enumerate(drawn), key=lambda each: stream_key(stream, each[0]) / MASK64)[1]]

    return ComparedMethod(
        name=f"random of {n}",
        pick=pick,
        spent=lambda item: _pool_spent(item, n, NEITHER),
        timed=None,
    )


def best_by(
    name: str,
    n: int,
    lam: float,
    reduction: Reduction,
    views: frozenset[str] = BOTH,
    cut_off: CutOff = CUT_OFF,
) -> ComparedMethod:
    """The highest q + λ d of ``n`` samples; λ = 1 is p, λ = 0 is q and λ → ∞ is p − q."""
    named = math.isinf(lam) or lam in (0.0, 1.0)
    reward = Reward(reduction=reduction, cut_off=cut_off)
    return ComparedMethod(
        name=name,
        pick=lambda item: [best_of(drawn, lam, reward)] if (drawn := first(item.pool, n)) else [],
        spent=lambda item: _pool_spent(item, n, views),
        lam=None if named else lam,
        reduction=reduction,
        timed=BEST_OF,
    )


def rear(n: int, lam: float, reduction: Reduction, *, chosen: bool = False) -> ComparedMethod:
    """BoN-REAR."""
    made = best_by("BoN-REAR", n, lam, reduction)
    return replace(made, lam=lam, chosen=chosen)


def likelihoods(n: int, reduction: Reduction) -> list[ComparedMethod]:
    """The model's own likelihoods: by q, by p, by p − q, and by p a token."""
    return [
        best_by(f"best-of-{n} by q (λ = 0)", n, 0.0, reduction, QUESTION),
        plain(n, reduction),
        best_by(f"best-of-{n} by p − q (λ → ∞)", n, math.inf, reduction),
        best_by(f"best-of-{n} by mean log p", n, 1.0, "mean", FULL),
    ]


def plain(n: int, reduction: Reduction) -> ComparedMethod:
    """Best-of-n by p, which is λ = 1: the choice without realigning."""
    return best_by(f"best-of-{n} by p (λ = 1)", n, 1.0, reduction, FULL)


def trees(lam: float, reduction: Reduction) -> ComparedMethod:
    """DVTS-REAR, 4 subtrees of width 4."""
    return ComparedMethod(
        name=TREE,
        pick=lambda item: [item.trees[lam].answer] if lam in item.trees else [],
        spent=lambda item: item.trees[lam].spent,
        lam=lam,
        reduction=reduction,
        timed=TREE,
    )


def rated(name: str, n: int) -> ComparedMethod:
    """The highest rating by a reward model or judge, in the order of :mod:`preftilt.reward`."""

    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = first(item.pool, n)
        if not drawn or name not in item.ratings:
            return []
        return [first_by(drawn, item.ratings[name].scores[:n])]

    return ComparedMethod(
        name=f"best-of-{n} by {name}",
        pick=pick,
        spent=lambda item: _pool_spent(item, n, NEITHER) + item.ratings[name].spent,
        timed=name,
        missing=lambda item: sum(each is None for each in item.ratings[name].scores[:n]),
    )


def guided(name: str) -> ComparedMethod:
    return ComparedMethod(
        name=name,
        pick=lambda item: [item.guided[name].answer] if name in item.guided else [],
        spent=lambda item: item.guided[name].spent,
        timed=name,
    )


def voted(n: int, answers: AnswerKind, lam: float | None) -> ComparedMethod:
    """The answer that most samples give; with a λ, a vote weighs 1 plus REAR's score as a mean over tokens."""
    read = EXTRACTORS[answers]

    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = first(item.pool, n)
        return [elected(drawn, read, lam)] if drawn else []

    return ComparedMethod(
        name=f"majority of {n}" if lam is None else f"weighted vote of {n}",
        pick=pick,
        spent=lambda item: _pool_spent(item, n, NEITHER if lam is None else BOTH),
        lam=lam,
        timed=BEST_OF,
    )


def any_of(n: int, right: Callable[[ItemMeasurements, RecordedAnswer], float]) -> ComparedMethod:
    """The best of ``n`` by their verdicts: what no way of choosing can exceed."""
    return ComparedMethod(
        name=f"any of {n} (oracle)",
        pick=lambda item: [max(drawn, key=lambda each: right(item, each))] if (drawn := first(item.pool, n)) else [],
        spent=lambda item: _pool_spent(item, n, NEITHER),
        oracle=True,
    )  # fmt: skip


def judges(n: int) -> list[ComparedMethod]:
    """The reward models: external, then generative."""
    return [rated(name, n) for name in (REWARD_MODEL, *JUDGED)]


def decoders() -> list[ComparedMethod]:
    """Those of the paper."""
    return [guided(name) for name in GUIDED if name != "CFG"]


def first(pool: SamplePool | None, n: int) -> Sequence[RecordedAnswer]:
    """The first ``n`` answers of a pool; none if fewer were drawn."""
    answers = () if pool is None else pool.answers[:n]
    return answers if len(answers) == n else ()


def guided_draws(lam: float, n: int, item: ItemMeasurements) -> Sequence[RecordedAnswer]:
    """The first ``n`` answers that were drawn guided at λ; none if fewer were."""
    return first(item.draws.get(drawn_guidance(lam)), n)


def _pool_spent(item: ItemMeasurements, n: int, views: frozenset[str]) -> AnswerCost:
    return AnswerCost() if item.pool is None else item.pool.spent(n, views)


Scores = Callable[[Sequence[RecordedAnswer], float], list[float]]

LENGTH_POWER = 0.6
"""α of the length penalty ((5 + L) / 6)^α, within the range that its paper found best (0.6 to 0.7)."""

CLIP = 2.0
"""Nats to which a token's gain is clipped, so that a few tokens cannot decide alone."""


def length_penalty(pool: Sequence[RecordedAnswer], lam: float) -> list[float]:
    """The sum divided by ((5 + L) / 6)^α (Wu et al., 2016, arXiv 1609.08144, eq. 14)."""
    return [
        ScoreLine(answer.question_logprob, answer.preference_gain).at(lam)
        / ((5 + answer.length) / 6) ** LENGTH_POWER
        for answer in pool
    ]


def clipped(pool: Sequence[RecordedAnswer], lam: float) -> list[float]:
    """The sum with every token's gain clipped to :data:`CLIP`."""
    return [
        ScoreLine(answer.question_logprob, float(np.clip(answer.gains, -CLIP, CLIP).sum())).at(lam)
        for answer in pool
    ]


def common_prefix(pool: Sequence[RecordedAnswer], lam: float) -> list[float]:
    """The sum over the first tokens of every answer, as many as the shortest of the pool has."""
    length = min(answer.length for answer in pool)
    return [
        ScoreLine(float(answer.questions[:length].sum()), float(answer.gains[:length].sum())).at(
            lam
        )
        for answer in pool
    ]


LAMBDAS_OF_N = (1.0, 3.0, 20.0)
"""The λ whose curves over N are drawn."""


def sizes(pool: int) -> list[int]:
    """The powers of two up to ``pool``, and ``pool`` itself."""
    return sorted({2**k for k in range(pool.bit_length()) if 2**k <= pool} | {pool})


def over_lambda(how: MeasureSettings) -> dict[str, list[ComparedMethod]]:
    """Every search over λ, by the name of its curve."""
    reduction = how.reduction
    curves = {
        f"best-of-{how.n}, {each}": [rear(how.n, lam, each) for lam in LAMBDAS]
        for each in REDUCTIONS
    }
    tree = [trees(lam, reduction) for lam in how.lambdas]
    return curves | {f"DVTS 4×4, {reduction}": tree}


OTHER_SCORES: Mapping[str, Scores] = {
    "length penalty": length_penalty,
    "clipped gain": clipped,
    "common prefix": common_prefix,
}
