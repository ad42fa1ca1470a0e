"""The figures of the table, each a ratio of two sides timed in turn in the same run."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from bench.guided import amulet, guided, plain
from bench.memory import measuring
from bench.models import Subject
from preftilt.engines.base import ScoreRequest
from preftilt.engines.transformers import TransformersEngine
from preftilt.engines.worker import in_own_thread
from preftilt.reward import Reward
from preftilt.run import Run
from preftilt.search import DVTS, BestOfN, Search
from preftilt.types import Query, Sampling, Stream, Tokens, View

T = TypeVar("T")

CANDIDATES, NEW_TOKENS = 16, 128
ASK, SHORT, MIDDLE, LONG = 55, 256, 1000, 2000
"""Tokens of a prompt; the first is that of a question with a preference in a chat template."""
ITEMS, ITEM_PROMPT, ITEM_CANDIDATES, ITEM_TOKENS = 64, 40, 4, 32
EVERY = 4
"""Of work that is one like the other and takes long (plain forwards of candidates, items one after another) every
fourth is timed, and counted four times."""
WAKE_SECONDS = 0.1


@dataclass(slots=True)
class Figure:
    """A measured row: one value a repeat, what the two sides took (seconds or tokens) and their peak memory.

    There are no values where time was up.
    """

    name: str
    aim: float | None
    values: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    peak_ours: float | None = None
    peak_theirs: float | None = None

    def add(self, ours: float, theirs: float) -> None:
        self.values.append(ours / theirs)
        self.ours.append(ours)
        self.theirs.append(theirs)

    def held(self, ours: float | None, theirs: float | None) -> None:
        """Peaks of memory of one repeat; the largest count."""
        self.peak_ours = _larger(self.peak_ours, ours)
        self.peak_theirs = _larger(self.peak_theirs, theirs)


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds and peak memory (MiB above the loaded models; None where it is not told) of one side."""

    seconds: float
    peak: float | None


@dataclass(frozen=True, slots=True)
class Effort:
    """How often a figure is measured: ``repeats`` times, or fewer once it has taken ``seconds``; at least once."""

    repeats: int
    seconds: float

    def rounds(self) -> Iterator[int]:
        """1, 2, …: the number of the next value, for as long as there is to be one."""
        began = time.perf_counter()
        for number in range(1, self.repeats + 1):
            yield number
            if time.perf_counter() - began >= self.seconds:
                return


class Bench:
    """Measures one model; ``seed`` fixes its prompts and draws, ``say`` hears what is being measured.

    new_tokens: of every response. until: no figure is begun after this reading of ``time.perf_counter``.
    """

    def __init__(
        self,
        subject: Subject,
        seed: int,
        say: Callable[[str], None],
        *,
        new_tokens: int = NEW_TOKENS,
        until: float = math.inf,
    ) -> None:
        self.subject = subject
        self._new_tokens = new_tokens
        self._until = until
        self._random = random.Random(seed)
        self._seed = seed
        self._say = say
        self._device = subject.plain.device

    def figures(self, effort: Effort, aims: Mapping[str, float | None]) -> list[Figure]:
        """Every row of the table; the two sides of a value are measured right after each other."""
        rows = {name: Figure(name, aim) for name, aim in aims.items()}
        self._warm_up()
        groups: dict[str, tuple[str, Effort, Callable[[], None]]] = {
            "ask": (
                "best-of-16, short prompt",
                effort,
                lambda: self._ask(rows["ask"], rows["drawing"]),
            ),
            "generate": ("best-of-16", effort, lambda: self._against_generate(rows)),
            "growth": ("growth with the prompt", effort, lambda: self._growth(rows["growth"])),
            "tree": ("tree", Effort(1, 0), lambda: self._tree(rows["tree"])),
            "items": ("many short items", effort, lambda: self._items(rows["items"])),
            "guided-1": ("guided, one row", effort, lambda: self._guided(rows["guided-1"], 1)),
            "guided-16": (
                "guided, 16 rows",
                effort,
                lambda: self._guided(rows["guided-16"], CANDIDATES),
            ),
            "twice": ("twice the rows", effort, lambda: self._twice(rows["twice"])),
            "amulet": ("amulet", effort, lambda: self._amulet(rows["amulet"])),
            "start": ("start", effort, lambda: self._start_up(rows["start"])),
        }
        for name, group in groups.items():
            if name in rows and time.perf_counter() < self._until:
                self._repeat(*group)
        return list(rows.values())

    def _repeat(self, what: str, effort: Effort, measure: Callable[[], None]) -> None:
        for number in effort.rounds():
            self._say(f"{self.subject.name}: {what}, value {number} of at most {effort.repeats}")
            measure()

    def _warm_up(self) -> None:
        self._search(self._query(64), BestOfN(n=CANDIDATES), min(8, self._new_tokens))
        self._other_side(lambda: self._plain(torch.tensor([self._prompt(64)])))

    def _ask(self, whole: Figure, drawing: Figure) -> None:
        """Best-of-16 with its scores, and its drawing alone, at the prompt of an ordinary question."""
        query = self._query(ASK)
        run, ours = self._timed(
            lambda: self._search(query, BestOfN(n=CANDIDATES), self._new_tokens)
        )
        _, generated = self._other_side(lambda: self._generate(query.prompt))
        whole.add(ours.seconds, generated.seconds)
        drawing.add(run.clock.seconds["sampling"], generated.seconds)
        for row in (whole, drawing):
            row.held(ours.peak, generated.peak)

    def _amulet(self, row: Figure) -> None:
        row.add(*amulet(self.subject.vocabulary, self._new_tokens, self._seed))

    def _start_up(self, row: Figure) -> None:
        """An answer of one token by a process of its own, against one that imports what every forward needs."""
        command = Path(sys.executable).with_name("preftilt")
        asked = [command, "ask", "Hi", "-p", "No games.", "--max-tokens", "1"]
        answer = [*asked, "--model", self.subject.name, "--dtype", "float32"]
        imports = [sys.executable, "-c", "import torch, transformers.modeling_utils"]
        took: list[float] = []
        for process in (answer, imports):
            began = time.perf_counter()
            subprocess.run(process, check=True, capture_output=True)
            took.append(time.perf_counter() - began)
        row.add(*took)

    def _against_generate(self, rows: dict[str, Figure]) -> None:
        """Rows 1 to 4: best-of-16 with REAR scores at the middle prompt, and what others do instead."""
        query = self._query(MIDDLE)
        run, ours = self._timed(
            lambda: self._search(query, BestOfN(n=CANDIDATES), self._new_tokens)
        )
        drawn, generated = self._other_side(lambda: self._generate(query.prompt))
        _, forwards = self._other_side(lambda: self._naive_scores(query, drawn[::EVERY]))
        _, floor = self._other_side(lambda: self._floor(query.views[0].prompt, drawn))
        sampling, scoring = run.clock.seconds["sampling"], run.clock.seconds["scoring"]
        rows["generate"].add(ours.seconds, generated.seconds)
        rows["naive"].add(ours.seconds, generated.seconds + EVERY * forwards.seconds)
        rows["scoring"].add(scoring, sampling)
        rows["floor"].add(scoring, floor.seconds)
        rows["generate"].held(ours.peak, generated.peak)
        rows["naive"].held(ours.peak, _larger(generated.peak, forwards.peak))
        rows["scoring"].held(ours.peak, None)
        rows["floor"].held(ours.peak, floor.peak)

    def _growth(self, row: Figure) -> None:
        """Row 5: best-of-16 with its prompts there already, long against short; their memory is counted."""
        search = BestOfN(n=CANDIDATES)
        timed: list[Timed] = []
        for length in (LONG, SHORT):
            query = self._query(length)
            _, measured = self._timed(
                lambda query=query: self._search(query, search, self._new_tokens),
                before=lambda query=query: self._prefill(query),
            )
            timed.append(measured)
        long, short = timed
        row.add(long.seconds, short.seconds)
        row.held(long.peak, short.peak)

    def _tree(self, row: Figure) -> None:
        """Row 6: tokens forwarded by DVTS 4×4 against tokens drawn times views; a count, not a time."""
        stats = self.subject.engine.stats
        stats.reset()
        query = self._query(SHORT)
        search = DVTS(delimiter=self._common_piece(), max_steps=8)
        _, timed = self._timed(lambda: self._search(query, search, self._new_tokens))
        row.add(stats.response_tokens, stats.drawn * len(query.views))
        row.held(timed.peak, None)

    def _items(self, row: Figure) -> None:
        """Row 7: many short items, all at once against one after another."""
        queries = [self._query(ITEM_PROMPT) for _ in range(ITEMS)]
        search = BestOfN(n=ITEM_CANDIDATES)

        async def together() -> None:
            await asyncio.gather(
                *(self._start(q, search, ITEM_TOKENS, str(i)) for i, q in enumerate(queries))
            )

        async def in_turn() -> None:
            for i in range(0, ITEMS, EVERY):
                await self._start(queries[i], search, ITEM_TOKENS, str(i))

        _, batched = self._timed(lambda: asyncio.run(together()))
        _, single = self._timed(lambda: asyncio.run(in_turn()))
        row.add(batched.seconds, EVERY * single.seconds)
        row.held(batched.peak, single.peak)

    def _guided(self, row: Figure, rows: int) -> None:
        """Rows 8 and 9: drawing from both views against drawing from one, prompts there already: time per token."""
        subject, query, seed = self.subject, self._query(SHORT), self._seed

        def prefill() -> None:
            self._prefill(query)

        _, two = self._timed(lambda: guided(subject, query, rows, self._new_tokens, seed), prefill)
        _, single = self._timed(
            lambda: plain(subject, query.views[1], rows, self._new_tokens, seed), prefill
        )
        row.add(two.seconds, single.seconds)
        row.held(two.peak, single.peak)

    def _twice(self, row: Figure) -> None:
        """Plain decoding of as many rows as guided decoding has strands, against the rows alone."""
        query = self._query(SHORT)
        took = [
            self._timed(
                lambda rows=rows: plain(
                    self.subject, query.views[1], rows, self._new_tokens, self._seed
                ),
                lambda: self._prefill(query),
            )[1]
            for rows in (2 * CANDIDATES, CANDIDATES)
        ]
        row.add(took[0].seconds, took[1].seconds)
        row.held(took[0].peak, took[1].peak)

    def _search(self, query: Query, search: Search, max_tokens: int) -> Run:
        return asyncio.run(self._start(query, search, max_tokens, ""))

    async def _start(self, query: Query, search: Search, max_tokens: int, item: str) -> Run:
        run = Run(
            engine=self.subject.engine,
            query=query,
            sampling=Sampling(),
            reward=Reward(),
            stream=Stream(self._seed, item),
            max_tokens=max_tokens,
        )
        await run.search(search)
        return run

    def _prefill(self, query: Query) -> None:
        """See to it that the prompts of all views are in the cache."""
        requests = [ScoreRequest(prompt=view.prompt, completion=(1,)) for view in query.views]
        asyncio.run(self.subject.engine.score(requests))

    def _forget(self) -> None:
        """Give back what the engine holds for later calls; its thread, which is idle, does so when it wakes up."""
        self.subject.engine.forget()
        time.sleep(WAKE_SECONDS)

    @torch.inference_mode()
    def _generate(self, prompt: Tokens) -> torch.Tensor:
        """transformers alone: 16 sampled responses [16, 128], no scores."""
        ids = torch.tensor([prompt], device=self._device)
        out = self.subject.plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=CANDIDATES,
            do_sample=True,
            top_k=0,
            max_new_tokens=self._new_tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[:, ids.shape[1] :]

    def _naive_scores(self, query: Query, drawn: torch.Tensor) -> None:
        """What follows ``generate`` without caches: each candidate forwarded whole, under both prompts."""
        for view in query.views:
            head = torch.tensor([view.prompt], device=self._device)
            for row in drawn:
                self._plain(torch.cat([head, row[None]], dim=1))

    def _floor(self, prompt: Tokens, drawn: torch.Tensor) -> None:
        """The least that scoring can forward: the prompt once, the candidates in one batch."""
        self._plain(torch.tensor([prompt], device=self._device), logits_to_keep=1)
        self._plain(drawn)

    @torch.inference_mode()
    def _plain(self, ids: torch.Tensor, **options: int) -> None:
        self.subject.plain(input_ids=ids.to(self._device), use_cache=False, **options)

    def _timed(
        self, work: Callable[[], T], before: Callable[[], object] = lambda: None
    ) -> tuple[T, Timed]:
        """What ``work`` returns, and its time; memory is that of ``before`` and ``work``, from empty caches on."""
        self._forget()
        with measuring(self._device) as peak:
            before()
            self._synchronize()
            began = time.perf_counter()
            result = work()
            self._synchronize()
            seconds = time.perf_counter() - began
        return result, Timed(seconds, peak.mib)

    def _other_side(self, work: Callable[[], T]) -> tuple[T, Timed]:
        """As :meth:`_timed`, in a thread of its own while the engine has none.

        As :func:`~preftilt.engines.worker.in_own_thread` says, both sides would be slower if the threads of the other
        one waited meanwhile.
        """
        engine = self.subject.engine
        self._forget()
        engine.close()
        result = in_own_thread(self._timed)(work)
        again = TransformersEngine(engine.info, engine._runner, engine._scheduler)
        self.subject = replace(self.subject, engine=again)
        return result

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _query(self, length: int) -> Query:
        """Two different prompts of one length, or as long as the context allows: nothing is shared between the views
        but the candidates."""
        length = min(length, self.subject.context - self._new_tokens)
        question, full = self._prompt(length), self._prompt(length)
        views = (View("question", question, 0.0), View("full", full, 1.0))
        return Query(prompt=full, views=views, lam=20.0, ratios=(1.0,))

    def _prompt(self, length: int) -> Tokens:
        return tuple(self._random.randrange(self.subject.vocabulary) for _ in range(length))

    def _common_piece(self) -> str:
        """A text that random responses hold every few dozen tokens, so that trees have steps."""
        return "1"


def _larger(mib: float | None, other: float | None) -> float | None:
    known = [peak for peak in (mib, other) if peak is not None]
    return max(known, default=None)
