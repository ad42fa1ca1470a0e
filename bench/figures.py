"""The figures of the table, each a ratio of two sides timed in turn in the same run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from bench.memory import Peak, measuring
from bench.models import Subject
from preftilt.engines.base import ScoreRequest
from preftilt.reward import Reward
from preftilt.run import Run
from preftilt.search import DVTS, BestOfN, Search
from preftilt.types import Query, Sampling, Stream, Tokens, View

T = TypeVar("T")

CANDIDATES, NEW_TOKENS = 16, 128
SHORT, MIDDLE, LONG = 256, 1000, 2000
ITEMS, ITEM_PROMPT, ITEM_CANDIDATES, ITEM_TOKENS = 64, 40, 4, 32


@dataclass(slots=True)
class Figure:
    """A measured row: one value a repeat, what the two sides took (seconds or tokens) and their peak memory."""

    name: str
    bar: float
    values: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    peak_ours: float | None = None
    peak_theirs: float | None = None

    def add(self, ours: float, theirs: float) -> None:
        self.values.append(ours / theirs)
        self.ours.append(ours)
        self.theirs.append(theirs)


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds and peak memory (MiB above what was held before) of one side."""

    seconds: float
    peak: float


class Bench:
    """Measures one model; ``seed`` fixes its prompts and draws."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self._random = random.Random(seed)
        self._seed = seed
        self._device = subject.plain.device

    def figures(self, repeats: int, bars: dict[str, float]) -> list[Figure]:
        """Every row of the table, ``repeats`` values each."""
        rows = {name: Figure(name, bar) for name, bar in bars.items()}
        self._warm_up()
        for _ in range(repeats):
            self._against_generate(rows)
            self._growth(rows["growth"])
        self._tree(rows["tree"])
        for _ in range(repeats):
            self._items(rows["items"])
        return list(rows.values())

    def _warm_up(self) -> None:
        self._search(self._query(64), BestOfN(n=CANDIDATES), 8)
        self._plain(torch.tensor([self._prompt(64)]))

    def _against_generate(self, rows: dict[str, Figure]) -> None:
        """Rows 1 to 4: best-of-16 with REAR scores at the middle prompt, and what others do instead."""
        query = self._query(min(MIDDLE, self.subject.context - NEW_TOKENS))
        self._forget()
        with measuring(self._device) as peak:
            run, ours = self._timed(
                lambda: self._search(query, BestOfN(n=CANDIDATES), NEW_TOKENS), peak
            )
        with measuring(self._device) as peak:
            drawn, generated = self._timed(lambda: self._generate(query.prompt), peak)
        with measuring(self._device) as peak:
            _, forwards = self._timed(lambda: self._naive_scores(query, drawn), peak)
        with measuring(self._device) as peak:
            _, floor = self._timed(lambda: self._floor(query.views[0].prompt, drawn), peak)
        sampling, scoring = run.clock.seconds["sampling"], run.clock.seconds["scoring"]
        rows["generate"].add(ours.seconds, generated.seconds)
        rows["naive"].add(ours.seconds, generated.seconds + forwards.seconds)
        rows["scoring"].add(scoring, sampling)
        rows["floor"].add(scoring, floor.seconds)
        for name, other in (("generate", generated), ("naive", forwards), ("floor", floor)):
            rows[name].peak_ours, rows[name].peak_theirs = ours.peak, other.peak
        rows["scoring"].peak_ours = ours.peak

    def _growth(self, row: Figure) -> None:
        """Row 5: best-of-16 with its prompts there already, long against short."""
        seconds: dict[int, float] = {}
        for length in (SHORT, min(LONG, self.subject.context - NEW_TOKENS)):
            query = self._query(length)
            self._forget()
            self._prefill(query)
            with measuring(self._device) as peak:
                _, timed = self._timed(
                    lambda q=query: self._search(q, BestOfN(n=CANDIDATES), NEW_TOKENS), peak
                )
            seconds[length] = timed.seconds
            row.peak_ours, row.peak_theirs = timed.peak, row.peak_ours
        row.add(seconds[max(seconds)], seconds[SHORT])

    def _tree(self, row: Figure) -> None:
        """Row 6: tokens forwarded by DVTS 4×4 against tokens drawn times views; a count, not a time."""
        self._forget()
        engine = self.subject.engine
        engine.stats.reset()
        query = self._query(SHORT)
        with measuring(self._device) as peak:
            self._search(query, DVTS(delimiter=self._common_piece(), max_steps=8), NEW_TOKENS)
        row.add(engine.stats.response_tokens, engine.stats.drawn * len(query.views))
        row.peak_ours = peak.mib

    def _items(self, row: Figure) -> None:
        """Row 7: many short items, all at once against one after another."""
        queries = [self._query(ITEM_PROMPT) for _ in range(ITEMS)]
        search = BestOfN(n=ITEM_CANDIDATES)

        async def together() -> None:
            await asyncio.gather(
                *(self._start(q, search, ITEM_TOKENS, str(i)) for i, q in enumerate(queries))
            )

        async def in_turn() -> None:
            for i, query in enumerate(queries):
                await self._start(query, search, ITEM_TOKENS, str(i))

        self._forget()
        with measuring(self._device) as peak:
            _, batched = self._timed(lambda: asyncio.run(together()), peak)
        self._forget()
        with measuring(self._device) as peak:
            _, single = self._timed(lambda: asyncio.run(in_turn()), peak)
        row.add(batched.seconds, single.seconds)
        row.peak_ours, row.peak_theirs = batched.peak, single.peak

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
        self.subject.engine.forget()

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
            max_new_tokens=NEW_TOKENS,
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

    def _timed(self, work: Callable[[], T], peak: Peak) -> tuple[T, Timed]:
        self._synchronize()
        began = time.perf_counter()
        result = work()
        self._synchronize()
        seconds = time.perf_counter() - began
        return result, Timed(seconds, peak.mib)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _query(self, length: int) -> Query:
        """Two different prompts of one length: nothing is shared between the views but the candidates."""
        question, full = self._prompt(length), self._prompt(length)
        views = (View("question", question, 0.0), View("full", full, 1.0))
        return Query(prompt=full, views=views, lam=20.0, ratios=(1.0,))

    def _prompt(self, length: int) -> Tokens:
        return tuple(self._random.randrange(self.subject.vocabulary) for _ in range(length))

    def _common_piece(self) -> str:
        """A text that random responses hold every few dozen tokens, so that trees have steps."""
        return "1"
