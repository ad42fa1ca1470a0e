"""Run a model over the demo world and keep what every method could have chosen from.

One pool of candidates an item serves all λ, all N (streams are nested) and both reductions. Tree searches depend on λ;
they share the steps on which they agree through a remembering engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from preftilt.api import Realigner, Settings
from preftilt.demo.world import WorldItem, check
from preftilt.engines.base import Engine
from preftilt.engines.loop import together
from preftilt.engines.memo import MemoEngine
from preftilt.eval.shares import surveyed
from preftilt.messages import Message
from preftilt.records import Journal, read_records
from preftilt.result import ScoredCandidate
from preftilt.reward import Reward
from preftilt.search import DVTS, BestOfN, Greedy, Search
from preftilt.types import Preference, Reduction, Sampling, check_whole

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

    def __post_init__(self) -> None:
        check_whole("pool", self.pool, 1)
        if self.trees is not None:
            check_whole("trees", self.trees, 0)


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


@dataclass(frozen=True, slots=True)
class Task:
    """An item to measure, with tree searches or without."""

    item: WorldItem
    trees: bool = True


def plan(items: Sequence[WorldItem], draws: Draws) -> list[Task]:
    """What to measure: tree searches run on the first ``draws.trees`` items."""
    with_trees = len(items) if draws.trees is None else draws.trees
    return [Task(item, number < with_trees) for number, item in enumerate(items)]


async def collect(engine: Engine, tasks: Sequence[Task], path: Path, draws: Draws) -> None:
    """Measure those of ``tasks`` that ``path`` has no record of, and append their records to it as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = surveyed(path)
    journal = Journal.resume(path, known, again=set())
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(task: Task) -> None:
        async with room:
            record = await measure(engine, task.item, draws, GRID if task.trees else ())
            journal.write(asdict(record))

    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                if task.item.id not in known.done:
                    group.create_task(one(task))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        journal.close()


async def measure(
    engine: Engine, item: WorldItem, draws: Draws, grid: Sequence[tuple[Reduction, float]]
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
        return [_answer(item, one) for one in first]

    drawn = await together(
        [
            answers(Greedy(), 1.0, "sum"),
            answers(BestOfN(n=draws.pool), 1.0, "sum"),
            *(answers(DVTS(), lam, reduction) for reduction, lam in grid),
        ]
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
    for raw in read_records(path):
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


def _answer(item: WorldItem, candidate: ScoredCandidate) -> Answer:
    verdict = check(item, candidate.text)
    return Answer(
        text=candidate.text,
        length=len(candidate.tokens),
        finished=candidate.finish == "eos",
        question_logprob=candidate.sums.question_logprob,
        preference_gain=candidate.sums.preference_gain,
        helpful=verdict.helpful,
        violates=verdict.violates,
        cause=verdict.cause,
    )
