"""What tokens buy: following over the number of draws, and other ways to spend the same tokens on them.

Everything is read off stored draws with the log-probs of their tokens; no model is called. The comparison that counts
is plain best-of-M **at equal tokens**: a rule that spends the share s of best-of-N's tokens stands beside
best-of-(s N), between two whole numbers by a coin. Best-of-M is exact over the draws there are: its mean over all M of
N.

- **Halving** (successive halving, Karnin et al., 2013): all N begin; after so many tokens the best go on, by the score
  of what they have.
- **Dropping what cannot win**: with the sum and 0 ≤ λ ≤ 1 no token adds to a score, so a draw whose partial score lies
  below the score of one that ended has lost; the answer is always best-of-N's.
- **Stopping early**: another draw is made while what it is expected to add to the best score is worth its tokens. The
  scores so far are taken for a normal distribution's, whose expected improvement is known (Mockus, 1975).
- **Spreading**: the same for all rows at once: the next draw goes where it is expected to add most a token, until the
  budget is spent.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from heapq import heapify, heappop, heappush
from itertools import combinations
from math import comb
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput
from preftilt.eval.answers import RecordedAnswer, scores
from preftilt.eval.harness.benchmark import Benchmark
from preftilt.eval.reproduce import methods
from preftilt.eval.reproduce.methods import PickAnswers, sizes
from preftilt.eval.reproduce.numbers import JudgedItems
from preftilt.eval.reproduce.parts import MeasureSettings
from preftilt.eval.stats import compare, mean_interval
from preftilt.reward import Reward, Sums, order

MOST = 0.45
"""The share of best-of-N's tokens that halving may spend."""


@dataclass(frozen=True, slots=True)
class PickRule:
    """How the answer is picked among draws: S at λ by ``reward``."""

    name: str
    lam: float
    reward: Reward


PICKS = (
    PickRule("sum, λ = 1", 1.0, Reward()),
    PickRule("sum, λ = 20", 20.0, Reward()),
    PickRule("sum, λ → ∞", math.inf, Reward()),
    PickRule("mean, λ = 50, cut off as-is", 50.0, Reward(reduction="mean", cut_off="as-is")),
)
"""λ = 1, the default, the preference gain alone, and what was chosen in the token-level comparison on S-IFEval."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemDraws:
    """The draws of one item in slot order, with their verdicts ``values`` [N]."""

    answers: Sequence[RecordedAnswer]
    values: Float[np.ndarray, "N"]

    @property
    def lengths(self) -> list[int]:
        return [answer.length for answer in self.answers]

    @property
    def cut_off(self) -> list[bool]:
        return [not answer.finished for answer in self.answers]

    def scores(self, rule: PickRule, tokens: int | None = None) -> Sequence[float]:
        """S of every draw, or of its first ``tokens``."""
        return _scores(self, rule, tokens)

    def ranked(self, rule: PickRule, among: Sequence[int]) -> list[int]:
        """The draws ``among``, best first."""
        values, cut_off = self.scores(rule), self.cut_off
        ranks = order([values[i] for i in among], [cut_off[i] for i in among], rule.reward.cut_off)
        return [among[rank] for rank in ranks]


@lru_cache(maxsize=1 << 16)
def _scores(draws: ItemDraws, rule: PickRule, tokens: int | None) -> tuple[float, ...]:
    parts = [_first(answer, tokens) for answer in draws.answers]
    return tuple(scores(parts, rule.lam, rule.reward))


def _first(answer: RecordedAnswer, tokens: int | None) -> Sums:
    if tokens is None or tokens >= answer.length:
        return Sums(answer.question_logprob, answer.preference_gain, answer.length)
    if not answer.gains.size:  # Impossible under a view.
        return Sums(-math.inf, 0.0, tokens)
    return Sums(float(answer.questions[:tokens].sum()), float(answer.gains[:tokens].sum()), tokens)


@dataclass(frozen=True, slots=True)
class WinningChances:
    """What a strategy makes of an item's draws: the probability that each is the answer [N], and the tokens drawn."""

    chances: Float[np.ndarray, "N"]
    tokens: float


Strategy = Callable[[Sequence[ItemDraws], PickRule], list[WinningChances]]
"""Items → a choice for each."""


def best_of(draws: ItemDraws, rule: PickRule, m: float) -> WinningChances:
    """Best-of-``m`` over all ways to take m of the draws; a fraction is a coin between two whole numbers."""
    n, low = len(draws.answers), math.floor(m)
    share = m - low
    chances = np.zeros(n)
    for size, weight in ((low, 1 - share), (low + 1, share)):
        if weight:
            for place, winner in enumerate(draws.ranked(rule, range(n))):
                chances[winner] += weight * comb(n - 1 - place, size - 1) / comb(n, size)
    return WinningChances(chances, m / n * sum(draws.lengths))


@dataclass(frozen=True, slots=True)
class Halving:
    """All draws begin; after each of ``rounds``, (tokens, share), that share of all draws goes on, one at least."""

    rounds: tuple[tuple[int, float], ...]

    @property
    def name(self) -> str:
        return "keep " + ", ".join(f"{share:.3g} after {tokens}" for tokens, share in self.rounds)

    def __call__(self, items: Sequence[ItemDraws], rule: PickRule) -> list[WinningChances]:
        return [self._choose(draws, rule) for draws in items]

    def _choose(self, draws: ItemDraws, rule: PickRule) -> WinningChances:
        n, lengths = len(draws.answers), draws.lengths
        live, spent = list(range(n)), [0] * n
        for tokens, share in self.rounds:
            for i in live:
                spent[i] = min(lengths[i], tokens)
            partial = draws.scores(rule, tokens)
            best = order([partial[i] for i in live], [False] * len(live), rule.reward.cut_off)
            live = sorted(live[place] for place in best[: max(1, round(share * n))])
        for i in live:
            spent[i] = lengths[i]
        return _certain(draws.ranked(rule, live)[0], n, sum(spent))


LOOKS = (8, 16, 32, 48, 64)
"""Tokens after which halving looks."""

HALVINGS = tuple(
    Halving(rounds)
    for rounds in [
        *(((tokens, share),) for tokens in LOOKS for share in (0.5, 0.25, 0.125)),
        *(((first, 0.5), (second, 0.25)) for first, second in combinations(LOOKS, 2)),
        *(tuple(zip(looks, (0.5, 0.25, 0.125), strict=True)) for looks in combinations(LOOKS, 3)),
    ]
)
"""What validation items choose among."""


@dataclass(frozen=True, slots=True)
class DropLosers:
    """Drop what cannot win, looking every ``every`` tokens; for sums with 0 ≤ λ ≤ 1, where it is exact."""

    every: int = 16

    def __call__(self, items: Sequence[ItemDraws], rule: PickRule) -> list[WinningChances]:
        return [self._choose(draws, rule) for draws in items]

    def _choose(self, draws: ItemDraws, rule: PickRule) -> WinningChances:
        n, lengths, whole = len(draws.answers), draws.lengths, draws.scores(rule)
        live, spent = set(range(n)), [0] * n
        for tokens in range(self.every, max(lengths) + self.every, self.every):
            for i in live:
                spent[i] = min(lengths[i], tokens)
            ended = [whole[i] for i in live if lengths[i] <= tokens and draws.answers[i].finished]
            bar = max(ended, default=-math.inf)
            partial = draws.scores(rule, tokens)
            live = {i for i in live if not partial[i] < bar}
        return _certain(draws.ranked(rule, sorted(live))[0], n, sum(spent))


def expected_improvement(known: Sequence[float]) -> float:
    """E[(S − max)+] of one more score, if scores are normal with the mean and deviation of two or more ``known``."""
    deviation = float(np.std(known, ddof=1))
    if deviation == 0:
        return 0.0
    normal = NormalDist()
    z = (float(np.mean(known)) - max(known)) / deviation
    return deviation * (z * normal.cdf(z) + normal.pdf(z))


@dataclass(frozen=True, slots=True)
class StopEarly:
    """Two draws, and another while it is expected to add more than ``price`` nats a token."""

    price: float

    def __call__(self, items: Sequence[ItemDraws], rule: PickRule) -> list[WinningChances]:
        return [
            _mean([self._choose(draws, rule, turn) for turn in _turns(draws)]) for draws in items
        ]

    def _choose(self, draws: ItemDraws, rule: PickRule, turn: Sequence[int]) -> WinningChances:
        scores, made = draws.scores(rule), 2
        while made < len(turn) and _worth(draws, scores, turn[:made]) >= self.price:
            made += 1
        return _of_first(draws, rule, turn[:made])


PRICES = tuple(10.0**power for power in np.arange(-5, 2.01, 0.1))
"""What validation items choose among."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Two draws of every item, then one at a time where it is expected to add most a token, for ``share`` of all
    tokens."""

    share: float

    def __call__(self, items: Sequence[ItemDraws], rule: PickRule) -> list[WinningChances]:
        turns = [_turns(draws) for draws in items]
        choices = [
            self._choose(items, rule, [each[number % len(each)] for each in turns])
            for number in range(max(map(len, turns)))
        ]
        return [_mean(each) for each in zip(*choices, strict=True)]

    def _choose(
        self, items: Sequence[ItemDraws], rule: PickRule, turns: Sequence[Sequence[int]]
    ) -> list[WinningChances]:
        left = self.share * sum(sum(draws.lengths) for draws in items)
        scores = [draws.scores(rule) for draws in items]
        made = [2] * len(items)
        left -= sum(
            draws.lengths[i] for draws, turn in zip(items, turns, strict=True) for i in turn[:2]
        )
        queue = [
            (-_worth(draws, scores[item], turns[item][:2]), item)
            for item, draws in enumerate(items)
        ]
        heapify(queue)
        while queue and left > 0:
            _, item = heappop(queue)
            draws, turn = items[item], turns[item]
            if made[item] < len(turn):
                left -= draws.lengths[turn[made[item]]]
                made[item] += 1
                heappush(queue, (-_worth(draws, scores[item], turn[: made[item]]), item))
        return [
            _of_first(draws, rule, turn[:number])
            for draws, turn, number in zip(items, turns, made, strict=True)
        ]


def _turns(draws: ItemDraws) -> list[list[int]]:
    """The draws in as many orders as there are draws: each of them is first once."""
    n = len(draws.answers)
    return [[(first + i) % n for i in range(n)] for first in range(n)]


def _worth(draws: ItemDraws, scores: Sequence[float], made: Sequence[int]) -> float:
    """What another draw is expected to add to the best score of those that may win, in nats a token."""
    known = [scores[i] for i in made if math.isfinite(scores[i])]
    if len(known) < 2:
        return math.inf
    return expected_improvement(known) / float(np.mean([draws.lengths[i] for i in made]))


def _of_first(draws: ItemDraws, rule: PickRule, made: Sequence[int]) -> WinningChances:
    winner = draws.ranked(rule, sorted(made))[0]
    return _certain(winner, len(draws.answers), sum(draws.lengths[i] for i in made))


def _certain(winner: int, n: int, tokens: float) -> WinningChances:
    return WinningChances(np.eye(n)[winner], tokens)


def _mean(choices: Sequence[WinningChances]) -> WinningChances:
    chances = np.mean([choice.chances for choice in choices], axis=0)
    return WinningChances(chances, float(np.mean([choice.tokens for choice in choices])))


# --- what is told -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """What a strategy comes to: ``values`` [I] and ``scores`` [I] of items; ``share`` of the tokens of all draws."""

    values: Float[np.ndarray, "I"]
    scores: Float[np.ndarray, "I"]
    share: float


def spend(items: Sequence[ItemDraws], rule: PickRule, choices: Sequence[WinningChances]) -> Spent:
    tokens = sum(choice.tokens for choice in choices)
    return Spent(
        np.array([c.chances @ draws.values for draws, c in zip(items, choices, strict=True)]),
        np.array([_score(draws, rule, c) for draws, c in zip(items, choices, strict=True)]),
        tokens / sum(sum(draws.lengths) for draws in items),
    )


def _score(draws: ItemDraws, rule: PickRule, choice: WinningChances) -> float:
    """The mean score of the answer; NaN if it may be one that no score allows."""
    possible = np.array(draws.scores(rule))
    return float(np.where(choice.chances > 0, choice.chances * possible, 0.0).sum())


def spend_on(items: Sequence[ItemDraws], rule: PickRule, m: float) -> Spent:
    """What best-of-``m`` comes to."""
    return spend(items, rule, [best_of(draws, rule, m) for draws in items])


def lead(spent: Spent, items: Sequence[ItemDraws], rule: PickRule) -> float | None:
    """The share of best-of-N's lead in mean score over one draw; None where it has none."""
    n = len(items[0].answers)
    one, whole = spend_on(items, rule, 1).scores, spend_on(items, rule, n).scores
    known = np.isfinite(one) & np.isfinite(whole) & np.isfinite(spent.scores)
    most = float((whole - one)[known].sum())
    return float((spent.scores - one)[known].sum()) / most if most > 0 else None


def strategies(items: Sequence[ItemDraws], rule: PickRule) -> dict[str, Strategy]:
    """What goes on to the test items, by name: the best of each kind on validation ``items``.

    Stopping and spreading make two draws at least, so their budget lies halfway between that and all draws.
    """

    def kept(halving: Halving) -> tuple[float, float]:
        spent = spend(items, rule, halving(items, rule))
        return (
            (lead(spent, items, rule) or 0.0, -spent.share)
            if spent.share <= MOST
            else (-math.inf, 0.0)
        )

    halving = max(HALVINGS, key=kept)

    n = len(items[0].answers)
    halfway = (2 + n) / (2 * n)

    def affordable(price: float) -> bool:
        return spend(items, rule, StopEarly(price)(items, rule)).share <= halfway

    price = PRICES[min(bisect_left(PRICES, True, key=affordable), len(PRICES) - 1)]
    known: dict[str, Strategy] = {
        f"halving: {halving.name}": halving,
        f"stop early: {price:.2g} nats a token": StopEarly(price),
        "spread over rows": Spread(halfway),
    }
    if rule.reward.reduction == "sum" and 0 <= rule.lam <= 1:
        known["drop what cannot win"] = DropLosers()
    return known


def check(how: MeasureSettings, benchmarks: Sequence[Benchmark]) -> None:
    """Refuse what leaves nothing to compare or to choose on."""
    for benchmark in benchmarks:
        if not benchmark.validation():
            raise BadInput(
                f"equal-tokens chooses its rules on validation items, and {benchmark.name} has none here: give"
                " --validation 100"
            )
    if min(how.n, how.drawn) < 2:
        raise BadInput(
            "equal-tokens compares draws with fewer draws: give --n and --drawn of 2 or more"
        )


def report(test: JudgedItems, validation: JudgedItems, how: MeasureSettings) -> dict[str, Any]:
    """Following over M, and every strategy beside best-of-M at equal tokens; a part for each pool of draws."""
    pools: dict[str, PickAnswers] = {"unguided draws": lambda item: methods.first(item.pool, how.n)}
    for lam in how.drawn_lambdas:
        pools[f"guided draws at λ = {lam:g}"] = partial(methods.guided_draws, lam, how.drawn)
    parts = []
    for name, pool in pools.items():
        shown, chosen_on = _draws(test, pool), _draws(validation, pool)
        if shown and chosen_on:
            parts.append({"pool": name, **_pool_report(shown, chosen_on)})
    return {"most": MOST, "pools": parts}


def _draws(judged: JudgedItems, pool: PickAnswers) -> list[ItemDraws]:
    """The draws of all items that have verdicts on all of them."""
    items = []
    for item in judged.items:
        answers, metric = pool(item), judged.benchmark.headline
        values = np.array([judged.verdicts.value(item, answer, metric) for answer in answers])
        if answers and np.isfinite(values).all():
            items.append(ItemDraws(answers, values))
    return items


def _pool_report(items: Sequence[ItemDraws], validation: Sequence[ItemDraws]) -> dict[str, Any]:
    n = len(items[0].answers)
    return {
        "draws": n,
        "items": len(items),
        "validation": len(validation),
        "tokens": float(np.mean([sum(draws.lengths) / n for draws in items])),
        "sizes": sizes(n),
        "oracle": [float(np.mean([_any_of(draws, m) for draws in items])) for m in sizes(n)],
        "curves": [{"pick": rule.name, **_curve(items, rule)} for rule in PICKS],
        "strategies": [
            {"pick": rule.name, "strategy": name, **_beside(items, rule, strategy)}
            for rule in PICKS
            for name, strategy in strategies(validation, rule).items()
        ],
    }  # fmt: skip


def _curve(items: Sequence[ItemDraws], rule: PickRule) -> dict[str, Any]:
    """Following over M, and what all draws have over one."""
    by_size = [spend_on(items, rule, m).values for m in sizes(len(items[0].answers))]
    over = compare(by_size[-1], by_size[0])
    return {
        "following": [asdict(mean_interval(values)) for values in by_size],
        "over_one": None if over is None else asdict(over),
    }


def _any_of(draws: ItemDraws, m: int) -> float:
    """The best verdict among m of the draws, on average."""
    best_first, n = np.sort(draws.values)[::-1], len(draws.values)
    return sum(
        float(value) * comb(n - 1 - place, m - 1) / comb(n, m)
        for place, value in enumerate(best_first)
    )


def _beside(items: Sequence[ItemDraws], rule: PickRule, strategy: Strategy) -> dict[str, Any]:
    n = len(items[0].answers)
    spent, whole = spend(items, rule, strategy(items, rule)), spend_on(items, rule, n)
    equal = spend_on(items, rule, max(1.0, spent.share * n))
    over = {
        "over_equal": compare(spent.values, equal.values),
        "over_all": compare(spent.values, whole.values),
    }
    return {
        "share": spent.share,
        "m": spent.share * n,
        "following": asdict(mean_interval(spent.values)),
        "equal": float(equal.values.mean()),
        **{name: None if each is None else asdict(each) for name, each in over.items()},
        "lead": lead(spent, items, rule),
        "equal_lead": lead(equal, items, rule),
    }
