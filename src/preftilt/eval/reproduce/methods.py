"""The methods of the tables: what each picks from what was measured on an item, and what that cost.

Nothing here calls a model. A method that was not measured on an item picks nothing there, and its numbers are those of
the items on which it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from preftilt.defaults import CUT_OFF
from preftilt.eval.reproduce.measured import (
    AnswerCost,
    ItemMeasurements,
    RecordedAnswer,
    SamplePool,
)
from preftilt.eval.reproduce.parts import BEST_OF, GUIDED, JUDGED, REWARD_MODEL, TREE
from preftilt.eval.stored import best_of, scores
from preftilt.rank import order
from preftilt.reward import Reward
from preftilt.rivals.extractors import EXTRACTORS
from preftilt.rivals.votes import tally
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
    """The highest rating by a reward model or judge, in the order of :mod:`preftilt.rank`."""

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


def voted(n: int, answers: str, lam: float | None) -> ComparedMethod:
    """The answer that most samples give; with a λ, a vote weighs 1 plus REAR's score as a mean over tokens."""
    read = EXTRACTORS[answers]

    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = first(item.pool, n)
        if not drawn:
            return []
        totals = tally([read(each.text) for each in drawn], [_weight(each, lam) for each in drawn])
        return [first_by(drawn, totals, vote=True)]

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


def first_by(
    drawn: Sequence[RecordedAnswer], scores: Sequence[float | None], *, vote: bool = False
) -> RecordedAnswer:
    """The first by scores that are not REAR's."""
    cut_off = [not answer.finished for answer in drawn]
    return drawn[order(scores, cut_off, Reward().cut_off, vote=vote)[0]]


def _weight(answer: RecordedAnswer, lam: float | None) -> float:
    """A response with an impossible token has no say."""
    if lam is None:
        return 1.0
    [mean] = scores([answer], lam, Reward(reduction="mean"))
    return 1.0 + mean if math.isfinite(mean) else 0.0


def first(pool: SamplePool | None, n: int) -> Sequence[RecordedAnswer]:
    """The first ``n`` answers of a pool; none if fewer were drawn."""
    answers = () if pool is None else pool.answers[:n]
    return answers if len(answers) == n else ()


def _pool_spent(item: ItemMeasurements, n: int, views: frozenset[str]) -> AnswerCost:
    pool: SamplePool | None = item.pool
    return AnswerCost() if pool is None else pool.spent(n, views)
