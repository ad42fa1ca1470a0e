"""The driver: the only place where a search meets an engine.

It draws what a plan asks for, scores every distinct new piece once under every view, and sends the children back.
Plans run side by side; none waits for another. The driver alone counts tokens and reads the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, GuideRequest, SampleRequest, ScoreRequest
from preftilt.engines.checks import completions_with_text
from preftilt.engines.waiting import together
from preftilt.errors import EngineError
from preftilt.guided import TrajectoryReward
from preftilt.reward import Reward
from preftilt.run.guiding import (
    GENERATION,
    DrawnCompletions,
    Guiding,
    Rows,
    Source,
    by_base,
    check_guided,
)
from preftilt.search import Plan, Score, Search, rear
from preftilt.types import (
    Candidate,
    Completion,
    Expand,
    Guide,
    Outcome,
    Query,
    RewardGuide,
    Sampling,
    Stream,
    Tokens,
    Usage,
    View,
)

TICK_SECONDS = 0.1
"""How often progress within a call to the engine is asked for, where the engine can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request has come.

    A report comes at the end of every call to the engine, and in between from engines that can tell.

    Attributes:
        item: the request's name, as in :meth:`~preftilt.api.Realigner.realign`.
        phase: ``sampling`` or ``scoring``, whichever is under way or has just ended.
        sampled: tokens drawn so far, those of the call under way included.
        scored: tokens scored so far, likewise.
        candidates: whole responses that have just been scored, in the order of their slots.
    """

    item: str
    phase: str
    sampled: int
    scored: int
    candidates: tuple[Candidate, ...] = ()


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class Clock:
    """Wall seconds during which at least one plan was in a phase: phases of parallel plans overlap."""

    seconds: dict[str, float] = field(default_factory=dict)
    _active: dict[str, int] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    def enter(self, phase: str) -> None:
        if not self._active.get(phase):
            self._since[phase] = time.perf_counter()
        self._active[phase] = self._active.get(phase, 0) + 1

    def leave(self, phase: str) -> None:
        self._active[phase] -= 1
        if not self._active[phase]:
            elapsed = time.perf_counter() - self._since[phase]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed


@dataclass(slots=True)
class CallsInProgress:
    """Engine calls in progress, and their token counts."""

    engine: Engine
    _requests: dict[int, SampleRequest | ScoreRequest | GuideRequest] = field(default_factory=dict)

    @contextmanager
    def holding(
        self, requests: Sequence[SampleRequest | ScoreRequest | GuideRequest]
    ) -> Iterator[None]:
        """Registers ``requests`` for the duration of their engine call."""
        here = {id(request): request for request in requests}
        self._requests.update(here)
        try:
            yield
        finally:
            for key in here:
                del self._requests[key]

    @property
    def phase(self) -> str:
        """``sampling`` while anything is drawn, otherwise ``scoring``."""
        scoring = all(isinstance(request, ScoreRequest) for request in self._requests.values())
        return "scoring" if scoring else "sampling"

    def tokens(self) -> tuple[int, int]:
        """Tokens drawn and scored."""
        sampled = scored = 0
        for request in self._requests.values():
            done = self.engine.progress(request)
            if isinstance(request, ScoreRequest):
                scored += done
            else:
                sampled += done
        return sampled, scored


T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Run:
    """One request on its way through a search; ``usage`` and ``clock`` fill up as it goes.

    search_score: what the search goes by; None is REAR's. trajectory: the reward of partial responses, for a search
    that lets it choose tokens. prefix: the tokens that every response begins with; they are scored, not drawn. absent:
    why answers without a text have none.
    """

    engine: Engine
    query: Query
    sampling: Sampling
    reward: Reward
    stream: Stream
    max_tokens: int
    on_progress: OnProgress | None = None
    search_score: Score | None = None
    trajectory: TrajectoryReward | None = None
    prefix: Tokens = ()
    usage: Usage = field(default_factory=Usage)
    clock: Clock = field(default_factory=Clock)
    absent: list[str] = field(default_factory=list)
    _under_way: CallsInProgress = field(init=False)

    def __post_init__(self) -> None:
        self._under_way = CallsInProgress(self.engine)

    async def search(self, search: Search) -> Outcome:
        """Drive every plan of ``search`` to its end, side by side, and join what they found.

        Raises :class:`~preftilt.errors.BadInput` before anything is drawn if the engine cannot do it.
        """
        check_guided(self.engine, search, self.query, self.trajectory)
        self._count_prompts()
        score = self.search_score or rear(self.query, self.reward)
        root = self._root()
        if self.prefix:
            beginning = Completion(self.prefix, np.zeros(len(self.prefix)), "step")
            [[root]] = await self._together([self._judge(root, [beginning], {})])
        plans = search.plans(root, score, self.max_tokens)
        outcomes = await self._together([self._drive(plan) for plan in plans])
        return search.conclude(outcomes, score)

    async def score_given(self, completions: Sequence[Completion]) -> list[Candidate]:
        """Score responses that exist already, under every view; nothing is drawn. Slots count them up."""
        self._count_prompts()
        [scored] = await self._together([self._judge(self._root(), completions, {})])
        candidates = [replace(candidate, slot=slot) for slot, candidate in enumerate(scored)]
        self._report("scoring", tuple(candidates))
        return candidates

    async def _together(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Await all, side by side, and report meanwhile; the first failure is the request's."""
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                tasks = [group.create_task(coroutine) for coroutine in work]
                await asyncio.wait(tasks)
                ticker.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    def _root(self) -> Candidate:
        return Candidate((), np.zeros((len(self.query.views), 0)), "step")

    async def _drive(self, plan: Plan) -> Outcome:
        try:
            expand = next(plan)
            while True:
                expand = plan.send(await self._grow(expand))
        except StopIteration as end:
            return end.value

    async def _grow(self, expand: Expand) -> list[Candidate]:
        self.clock.enter("sampling")
        try:
            drawn = await self._draw(expand)
        finally:
            self.clock.leave("sampling")
        _check_completions(drawn.completions, expand)
        slots, completions = self._present(drawn.completions, expand)
        self.usage.sampled += sum(len(completion.tokens) for completion in completions)
        self._report("sampling")
        judged = await self._judge(expand.parent, completions, drawn.known)
        children = [replace(child, slot=slot) for child, slot in zip(judged, slots, strict=True)]
        self._report("scoring", tuple(child for child in children if child.finish != "step"))
        return children

    def _present(
        self, completions: Sequence[Completion], expand: Expand
    ) -> tuple[list[int], list[Completion]]:
        """The completions that have a text, with their slots; one without a text is no candidate."""
        present = completions_with_text(completions)
        self.absent += [completion.absent for completion in completions if completion.absent]
        slots = [
            slot
            for slot, completion in zip(expand.slots, completions, strict=True)
            if not completion.absent
        ]
        return slots, present

    async def _draw(self, expand: Expand) -> DrawnCompletions:
        """What ``expand`` asks for, by plain sampling or guided."""
        greedy = replace(self.sampling, temperature=0.0)
        guiding = Guiding(
            engine=self.engine,
            query=self.query,
            sampling=greedy if expand.greedy else self.sampling,
            stream=self.stream,
            usage=self.usage,
            reward=self.trajectory,
        )
        if isinstance(expand.guide, RewardGuide):
            return await guiding.by_reward(expand, expand.guide)
        if isinstance(expand.guide, Guide):
            request = guiding.request(expand, expand.guide)
            with self._under_way.holding([request]):
                return await guiding.by_views(request, expand.guide)
        request = SampleRequest(
            prompt=self.query.prompt,
            prefix=expand.parent.tokens,
            slots=expand.slots,
            stream=self.stream,
            sampling=guiding.sampling,
            max_tokens=expand.max_tokens,
            step=expand.step,
            keep=expand.step is not None,
            logprobs=self._sampling_scores(),
        )
        with self._under_way.holding([request]):
            [completions] = await self.engine.sample([request])
        return guiding.plain(completions)

    async def _judge(
        self,
        parent: Candidate,
        completions: Sequence[Completion],
        known: Mapping[Source, Rows],
    ) -> list[Candidate]:
        """Children of ``parent`` with log-probs under every view; equal completions are scored once.

        ``known`` are those that came with the drawing and count, by source.
        """
        distinct = _distinct(completions)
        self.usage.duplicates += len(completions) - len(distinct)
        self.clock.enter("scoring")
        try:
            rows = await together(
                self._view_logprobs(view, parent, distinct, known.get((view.prompt, view.reader)))
                for view in self.query.views
            )
        finally:
            self.clock.leave("scoring")
        logprobs = {
            completion.tokens: np.concatenate(
                [parent.logprobs, np.stack([row[i] for row in rows])], axis=1
            )
            for i, completion in enumerate(distinct)
        }
        return [
            Candidate(
                tokens := parent.tokens + completion.tokens,
                logprobs[completion.tokens],
                completion.finish,
                thoughts=self.engine.tokenizer.thoughts(tokens),
            )
            for completion in completions
        ]

    async def _view_logprobs(
        self,
        view: View,
        parent: Candidate,
        completions: Sequence[Completion],
        known: Rows | None,
    ) -> list[Float[np.ndarray, "T"]]:
        tokens = sum(len(completion.tokens) for completion in completions)
        if known is not None:
            self.usage.reused += tokens
            return [known[completion.tokens] for completion in completions]
        requests = [
            ScoreRequest(
                prompt=view.prompt,
                prefix=parent.tokens,
                completion=completion.tokens,
                keep=completion.finish == "step",
                reader=view.reader,
            )
            for completion in completions
        ]
        with self._under_way.holding(requests):
            logprobs = await self.engine.score(requests)
        self._count_scored(view.name, tokens)
        for completion, row in zip(completions, logprobs, strict=True):
            if len(row) != len(completion.tokens):
                raise EngineError(
                    f"{len(row)} log-probs came back for {len(completion.tokens)} tokens"
                )
        return logprobs

    def _count_scored(self, name: str, tokens: int) -> None:
        """Keep the counts in the order of the views, whichever is scored first, so that records do not differ."""
        scored = self.usage.scored | {name: self.usage.scored.get(name, 0) + tokens}
        names = [view.name for view in self.query.views if view.name in scored]
        self.usage.scored = {view_name: scored[view_name] for view_name in names}

    def _sampling_scores(self) -> bool:
        """Whether log-probs of plain sampling are those of a view, so that it need not be scored."""
        drawn = (self.query.prompt, None)
        alike = any((view.prompt, view.reader) == drawn for view in self.query.views)
        return alike and self.engine.capabilities.sampler_logprobs

    def _count_prompts(self) -> None:
        self.usage.prompt = {view.name: len(view.prompt) for view in self.query.views}
        if self.query.prompt not in [view.prompt for view in by_base(self.query)]:
            self.usage.prompt[GENERATION] = len(self.query.prompt)

    async def _tick(self) -> None:
        """Report the progress of engine calls whenever it has grown; runs until it is cancelled."""
        if self.on_progress is None:
            return
        told = (0, 0)
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self._under_way.tokens() not in ((0, 0), told):
                told = self._under_way.tokens()
                self._report(self._under_way.phase)

    def _report(self, phase: str, candidates: tuple[Candidate, ...] = ()) -> None:
        if self.on_progress is not None:
            sampled, scored = self._under_way.tokens()
            self.on_progress(
                Progress(
                    item=self.stream.item,
                    phase=phase,
                    sampled=self.usage.sampled + sampled,
                    scored=sum(self.usage.scored.values()) + scored,
                    candidates=candidates,
                )
            )


def _distinct(completions: Sequence[Completion]) -> list[Completion]:
    """The first of every group of equal completions, in order."""
    first: dict[Tokens, Completion] = {}
    for completion in completions:
        first.setdefault(completion.tokens, completion)
    return list(first.values())


def _check_completions(completions: Sequence[Completion], expand: Expand) -> None:
    if len(completions) != len(expand.slots):
        raise EngineError(f"{len(completions)} completions came back for {len(expand.slots)} slots")
    for completion in completions:
        missing = not (completion.tokens or completion.absent)
        if missing or len(completion.tokens) != len(completion.logprobs):
            raise EngineError(
                f"a completion has {len(completion.tokens)} tokens and {len(completion.logprobs)} log-probs"
            )
