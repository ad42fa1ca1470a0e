"""The driver: the only place where a search meets an engine.

It draws what a plan asks for, scores every distinct new piece once under every view, and sends the children back.
Plans run side by side; none waits for another. The driver alone counts tokens and reads the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from preftilt import reward as rewards
from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.search import Plan, Search
from preftilt.types import (
    Candidate,
    Completion,
    Expand,
    Outcome,
    Query,
    Sampling,
    Stream,
    Tokens,
    Usage,
)

DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request has come; ``phase`` has just ended. Token counts are totals so far."""

    item: str
    phase: str
    sampled: int
    scored: int


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


@dataclass(slots=True, kw_only=True)
class Run:
    """One request on its way through a search; ``usage`` and ``clock`` fill up as it goes."""

    engine: Engine
    query: Query
    sampling: Sampling
    reward: rewards.Reward
    stream: Stream
    max_tokens: int
    on_progress: OnProgress | None = None
    usage: Usage = field(default_factory=Usage)
    clock: Clock = field(default_factory=Clock)

    async def search(self, search: Search) -> Outcome:
        """Drive every plan of ``search`` to its end, side by side, and join what they found."""
        self._count_prompts()
        plans = search.plans(self._root(), self._score, self.max_tokens)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._drive(plan)) for plan in plans]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return search.conclude([task.result() for task in tasks], self._score)

    async def score_given(self, completions: Sequence[Completion]) -> list[Candidate]:
        """Score responses that exist already, under every view; nothing is drawn. Slots count them up."""
        self._count_prompts()
        candidates = await self._judge(self._root(), completions, drawn=False)
        return [replace(one, slot=slot) for slot, one in enumerate(candidates)]

    def _root(self) -> Candidate:
        return Candidate((), np.zeros((len(self.query.views), 0)), "stop")

    def _score(self, candidate: Candidate) -> float:
        return rewards.score(candidate, self.query, self.reward)

    async def _drive(self, plan: Plan) -> Outcome:
        try:
            expand = next(plan)
            while True:
                expand = plan.send(await self._grow(expand))
        except StopIteration as end:
            return end.value

    async def _grow(self, expand: Expand) -> list[Candidate]:
        sampling = replace(self.sampling, temperature=0.0) if expand.greedy else self.sampling
        request = SampleRequest(
            prompt=self.query.prompt,
            prefix=expand.parent.tokens,
            slots=expand.slots,
            stream=self.stream,
            sampling=sampling,
            max_tokens=expand.max_tokens,
            step=expand.step,
            keep=expand.step is not None,
        )
        self.clock.enter("sampling")
        try:
            [completions] = await self.engine.sample([request])
        finally:
            self.clock.leave("sampling")
        _check_completions(completions, expand)
        self.usage.sampled += sum(len(one.tokens) for one in completions)
        self._report("sampling")
        children = await self._judge(expand.parent, completions, drawn=True)
        return [replace(one, slot=slot) for one, slot in zip(children, expand.slots, strict=True)]

    async def _judge(
        self, parent: Candidate, completions: Sequence[Completion], *, drawn: bool
    ) -> list[Candidate]:
        """Children of ``parent`` with log-probs under every view; equal completions are scored once."""
        distinct = _distinct(completions)
        self.usage.duplicates += len(completions) - len(distinct)
        reusable = drawn and self.engine.capabilities.sampler_logprobs
        self.clock.enter("scoring")
        try:
            rows = await asyncio.gather(
                *(
                    self._view_logprobs(view.name, view.prompt, parent, distinct, reusable)
                    for view in self.query.views
                )
            )
        finally:
            self.clock.leave("scoring")
        self._report("scoring")
        found = {
            one.tokens: np.concatenate(
                [parent.logprobs, np.stack([row[i] for row in rows])], axis=1
            )
            for i, one in enumerate(distinct)
        }
        return [
            Candidate(parent.tokens + one.tokens, found[one.tokens], one.finish)
            for one in completions
        ]

    async def _view_logprobs(
        self,
        name: str,
        prompt: Tokens,
        parent: Candidate,
        completions: Sequence[Completion],
        reusable: bool,
    ) -> list[Float[np.ndarray, "T"]]:
        tokens = sum(len(one.tokens) for one in completions)
        if reusable and prompt == self.query.prompt:
            self.usage.reused += tokens
            return [one.logprobs for one in completions]
        requests = [
            ScoreRequest(
                prompt=prompt,
                prefix=parent.tokens,
                completion=one.tokens,
                keep=one.finish == "stop",
            )
            for one in completions
        ]
        self.usage.scored[name] = self.usage.scored.get(name, 0) + tokens
        logprobs = await self.engine.score(requests)
        for one, row in zip(completions, logprobs, strict=True):
            if len(row) != len(one.tokens):
                raise EngineError(f"{len(row)} log-probs came back for {len(one.tokens)} tokens")
        return logprobs

    def _count_prompts(self) -> None:
        self.usage.prompt = {view.name: len(view.prompt) for view in self.query.views}
        if self.query.prompt not in [view.prompt for view in self.query.views]:
            self.usage.prompt["generation"] = len(self.query.prompt)

    def _report(self, phase: str) -> None:
        if self.on_progress is not None:
            scored = sum(self.usage.scored.values())
            self.on_progress(
                Progress(
                    item=self.stream.item, phase=phase, sampled=self.usage.sampled, scored=scored
                )
            )


def fit_max_tokens(query: Query, max_context: int, asked: int | None) -> int:
    """The response's token budget; refuses what does not fit into the context, naming the view and the excess."""
    prompts = {view.name: view.prompt for view in query.views} | {"generation": query.prompt}
    name, prompt = max(prompts.items(), key=lambda named: len(named[1]))
    room = max_context - len(prompt)
    if room < 1:
        raise PromptTooLong(
            f"the {name} prompt has {len(prompt)} tokens, {1 - room} too many for the model's context "
            f"of {max_context}: shorten the question, the preference or the history"
        )
    if asked is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if asked < 1:
        raise BadInput(f"max_tokens must be at least 1, not {asked}")
    if asked > room:
        raise PromptTooLong(
            f"the {name} prompt has {len(prompt)} tokens; with max_tokens {asked} that is {asked - room} "
            f"more than the model's context of {max_context}: lower max_tokens to {room} or shorten the prompt"
        )
    return asked


def _distinct(completions: Sequence[Completion]) -> list[Completion]:
    """The first of every group of equal completions, in order."""
    first: dict[Tokens, Completion] = {}
    for one in completions:
        first.setdefault(one.tokens, one)
    return list(first.values())


def _check_completions(completions: Sequence[Completion], expand: Expand) -> None:
    if len(completions) != len(expand.slots):
        raise EngineError(f"{len(completions)} completions came back for {len(expand.slots)} slots")
    for one in completions:
        if not one.tokens or len(one.tokens) != len(one.logprobs):
            raise EngineError(
                f"a completion has {len(one.tokens)} tokens and {len(one.logprobs)} log-probs"
            )
