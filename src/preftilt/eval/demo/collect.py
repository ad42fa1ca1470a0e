"""Run a model over the demo world and keep what every method could have chosen from.

One pool of candidates an item serves all λ, all N (streams are nested) and both reductions. Tree searches depend on λ;
they share the steps on which they agree through a remembering engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from preftilt.api import Realigner, Settings
from preftilt.demo.world import Item, check
from preftilt.engines.base import Engine
from preftilt.engines.memo import MemoEngine
from preftilt.messages import Message
from preftilt.records.journal import Journal, Survey, survey
from preftilt.result import ScoredCandidate
from preftilt.reward import Reward
from preftilt.search import DVTS, BestOfN, Greedy, Search
from preftilt.types import Preference, Reduction, Sampling

LAMBDAS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")
GRID: tuple[tuple[Reduction, float], ...] = tuple(
    (reduction, lam) for reduction in REDUCTIONS for lam in LAMBDAS
)
POOL = 32
N = 16
"""The candidates of every method in the table, and of a pool on the validation items, where λ is chosen for them."""
IN_FLIGHT = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How answers are drawn: the seed of the streams, the sampling, the candidates of an item's pool, and on how many
    items tree searches run, which take the most time by far (None: all)."""

    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    pool: int = POOL
    trees: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its verdict and the two numbers every λ is made of (nats, summed over ``length`` tokens)."""

    text: str
    length: int
    finished: bool
    question_logprob: float
    preference_gain: float
    helpful: bool
    violates: bool
    cause: str | None

    @property
    def following(self) -> bool:
        """PrefEval's headline: helpful, and not violating the preference."""
        return self.helpful and not self.violates


@dataclass(frozen=True, slots=True)
class Record:
    """Everything measured on one item: ``pool`` in slot order, ``trees[reduction][λ]`` what DVTS returned, if asked."""

    id: str
    question: str
    preference: str
    kind: str
    combination: str
    greedy: Answer
    pool: tuple[Answer, ...]
    trees: dict[str, dict[str, Answer]]


async def collect(
    engine: Engine,
    items: Sequence[Item],
    path: Path,
    draws: Draws | None = None,
    *,
    on_item: Callable[[int], None] | None = None,
) -> list[Record]:
    """Records of all items, in their order; those in ``path`` already are not measured again."""
    draws = draws or Draws()
    path.parent.mkdir(parents=True, exist_ok=True)
    known = survey(path) if path.exists() else Survey()
    journal = Journal.resume(path, known, again=set())
    room = asyncio.Semaphore(IN_FLIGHT)
    left = [item for item in items if item.id not in known.done]
    finished = len(items) - len(left)

    with_trees = {item.id for item in items[: draws.trees]}

    async def one(item: Item) -> None:
        nonlocal finished
        async with room:
            grid = GRID if item.id in with_trees else ()
            journal.write(asdict(await measure(engine, item, draws, grid)))
        finished += 1
        if on_item is not None:
            on_item(finished)

    try:
        async with asyncio.TaskGroup() as group:
            for item in left:
                group.create_task(one(item))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        journal.close()
    done = {record.id: record for record in read(path)}
    return [done[item.id] for item in items]


async def measure(
    engine: Engine, item: Item, draws: Draws, grid: Sequence[tuple[Reduction, float]]
) -> Record:
    """Greedy, a pool of samples, and a tree for every reduction and λ of ``grid``."""
    realigner = Realigner(MemoEngine(engine))

    async def answers(search: Search, lam: float, reduction: Reduction) -> list[Answer]:
        settings = Settings(
            lam=lam,
            search=search,
            reward=Reward(reduction=reduction),
            sampling=draws.sampling,
            seed=draws.seed,
        )
        result = await realigner.realign(
            [Message("user", item.question)],
            [Preference(item.preference)],
            settings=settings,
            item=item.id,
        )
        by_slot = sorted(result.candidates, key=lambda one: one.slot)
        first = result.candidates if isinstance(search, DVTS) else by_slot
        return [_answer(item, one, reduction) for one in first]

    drawn = await asyncio.gather(
        answers(Greedy(), 1.0, "sum"),
        answers(BestOfN(n=draws.pool), 1.0, "sum"),
        *(answers(DVTS(), lam, reduction) for reduction, lam in grid),
    )
    greedy, pool, trees = drawn[0][0], drawn[1], drawn[2:]
    found: dict[str, dict[str, Answer]] = {}
    for (reduction, lam), best_first in zip(grid, trees, strict=True):
        found.setdefault(reduction, {})[str(lam)] = best_first[0]
    return Record(
        item.id,
        item.question,
        item.preference,
        item.kind,
        item.combination,
        greedy,
        tuple(pool),
        found,
    )


def read(path: Path) -> Iterable[Record]:
    """The records of a file that :func:`collect` has finished."""
    for line in path.read_text("utf-8").splitlines():
        raw = json.loads(line)
        yield Record(
            **{
                **raw,
                "greedy": Answer(**raw["greedy"]),
                "pool": tuple(Answer(**one) for one in raw["pool"]),
                "trees": {
                    reduction: {lam: Answer(**one) for lam, one in by_lambda.items()}
                    for reduction, by_lambda in raw["trees"].items()
                },
            }
        )


def _answer(item: Item, candidate: ScoredCandidate, reduction: Reduction) -> Answer:
    verdict = check(item, candidate.text)
    length = len(candidate.tokens)
    total = length if reduction == "mean" else 1
    return Answer(
        text=candidate.text,
        length=length,
        finished=candidate.finish == "eos",
        question_logprob=candidate.question_logprob * total,
        preference_gain=candidate.preference_gain * total,
        helpful=verdict.helpful,
        violates=verdict.violates,
        cause=verdict.cause,
    )
