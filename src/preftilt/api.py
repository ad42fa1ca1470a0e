"""The library's front door: ``realign`` for one call, ``Realigner`` for many on one engine."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from threading import Thread
from typing import Any, TypeVar

import numpy as np

import preftilt
from preftilt import reward as rewards
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.errors import BadInput, PromptTooLong
from preftilt.messages import Message
from preftilt.path import upper_envelope
from preftilt.prompt import PromptSettings, build_query
from preftilt.result import Realigned, ScoredCandidate
from preftilt.reward import Reward
from preftilt.run import OnProgress, Run, fit_max_tokens
from preftilt.search import BestOfN, Search, rank
from preftilt.types import Candidate, Completion, Preference, Query, Sampling, Stream

T = TypeVar("T")

LARGE_LAMBDA, WIDE_SPREAD = 10.0, 3.0
"""From this λ on, and beyond this ratio of lengths, a sum is said to depend on length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that shapes a request besides its words; immutable, and recorded in the result.

    lam: strength λ of every preference that does not bring its own; 1 is the model as it is.
    max_tokens: of a response; None takes 512 or what the context leaves, whichever is less.
    """

    lam: float = 20.0
    search: Search = field(default_factory=BestOfN)
    sampling: Sampling = field(default_factory=Sampling)
    reward: Reward = field(default_factory=Reward)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.lam):
            raise BadInput(f"lambda must be a finite number, not {self.lam}")


class Realigner:
    """Realigns requests on one open engine; share it between tasks, it batches what they ask for.

    ::

        realigner = Realigner(open_engine("demo"), Settings(lam=5))
        result = await realigner.realign([Message("user", question)], [Preference("No games, please.")])
    """

    def __init__(self, engine: Engine, settings: Settings | None = None) -> None:
        self.engine = engine
        self.settings = settings or Settings()

    async def realign(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        *,
        settings: Settings | None = None,
        item: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Realigned:
        """Draw candidates, score them under every view and choose.

        ``settings`` replaces the realigner's for this request. ``item`` names the request in its random stream and is
        the result's ``id``: the same seed, item and request give the same answer, alone or beside others.
        """
        began = time.perf_counter()
        settings = settings or self.settings
        query, run = self._prepare(messages, preferences, settings, item, on_progress)
        outcome = await run.search(settings.search)
        return self._record(query, run, settings, preferences, outcome.ranked, item, began)

    async def score(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        responses: Sequence[str],
        *,
        settings: Settings | None = None,
        item: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Realigned:
        """Score given responses, drawing nothing; the record is that of :meth:`realign`, ``search`` named "given".

        A response's text is tokenised once, ended as the model ends a turn, and scored by those ids under every view.
        """
        began = time.perf_counter()
        settings = settings or self.settings
        query, run = self._prepare(messages, preferences, settings, item, on_progress)
        candidates = await run.score_given(self.check_responses(query, responses))
        ranked = rank(candidates, lambda one: rewards.score(one, query, settings.reward))
        return self._record(query, run, settings, preferences, ranked, item, began, given=True)

    def check(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        *,
        settings: Settings | None = None,
    ) -> tuple[Query, int]:
        """What a request would be: its prompts, and its token budget for a response; nothing is drawn.

        Raises :class:`~preftilt.errors.BadInput` for everything that can be refused before the first token.
        """
        settings = settings or self.settings
        query = build_query(
            self.engine.tokenizer,
            messages,
            preferences,
            lam=settings.lam,
            settings=settings.prompt,
        )
        room = self.engine.capabilities.max_context
        return query, fit_max_tokens(query, room, settings.max_tokens)

    def check_responses(self, query: Query, responses: Sequence[str]) -> list[Completion]:
        """Given responses as the model would have drawn them: closed with one end of turn, and none before.

        ``query`` is what :meth:`check` returned. Raises :class:`~preftilt.errors.BadInput` if there are none or one
        is empty, and :class:`~preftilt.errors.PromptTooLong` if one does not fit behind the longest prompt.
        """
        if not responses or not all(text.strip() for text in responses):
            raise BadInput("there must be at least one response, and none may be empty")
        return [self._given(number, text, query) for number, text in enumerate(responses, start=1)]

    def _prepare(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        settings: Settings,
        item: str | None,
        on_progress: OnProgress | None,
    ) -> tuple[Query, Run]:
        query, max_tokens = self.check(messages, preferences, settings=settings)
        run = Run(
            engine=self.engine,
            query=query,
            sampling=settings.sampling,
            reward=settings.reward,
            stream=Stream(settings.seed, item or ""),
            max_tokens=max_tokens,
            on_progress=on_progress,
        )
        return query, run

    def _given(self, number: int, text: str, query: Query) -> Completion:
        able = self.engine.capabilities
        tokens = self.engine.tokenizer.encode(text)
        if tokens and tokens[-1] in able.eos:
            tokens = tokens[:-1]
        if able.eos.intersection(tokens):
            raise BadInput(
                f"response {number} has an end-of-turn token before its end; take it out"
            )
        over = max(len(view.prompt) for view in query.views) + len(tokens) + 1 - able.max_context
        if over > 0:
            raise PromptTooLong(
                f"response {number} has {len(tokens) + 1} tokens; with the prompt that is {over} more than the model's"
                f" context of {able.max_context}: shorten one of them"
            )
        return Completion((*tokens, able.turn_end), np.zeros(len(tokens) + 1), "eos")

    def _record(
        self,
        query: Query,
        run: Run,
        settings: Settings,
        preferences: Sequence[Preference],
        ranked: Sequence[Candidate],
        item: str | None,
        began: float,
        *,
        given: bool = False,
    ) -> Realigned:
        tokenizer = self.engine.tokenizer
        candidates = tuple(
            _scored(rank, one, query, settings.reward, tokenizer.decode(one.tokens))
            for rank, one in enumerate(ranked, start=1)
        )
        return Realigned(
            id=item,
            text=candidates[0].text,
            model=self.engine.model,
            engine=self.engine.name,
            seed=settings.seed,
            settings=_settings_record(settings, query, preferences, run.max_tokens, given),
            prompts={view.name: view.prompt for view in query.views},
            candidates=candidates,
            path=upper_envelope(_contenders(candidates), start=min(0.0, query.lam)),
            usage=asdict(run.usage),
            timing=run.clock.seconds | {"total": time.perf_counter() - began},
            versions={"preftilt": preftilt.__version__} | self.engine.versions,
            notes=_notes(query, settings.reward, candidates, run.max_tokens),
            pieces=tuple(tuple(tokenizer.pieces(one.tokens)) for one in ranked),
        )


def realign(
    question: str,
    preference: str,
    *,
    lam: float = 20.0,
    search: Search | None = None,
    model: str = "demo",
    max_tokens: int | None = None,
    seed: int = 0,
) -> Realigned:
    """Answer ``question`` following ``preference`` with strength ``lam``; for scripts and notebooks.

    The model is opened at the first call and kept. For several preferences, a conversation, other sampling settings
    or many requests at once use :class:`Realigner`.
    """
    settings = Settings(lam=lam, search=search or BestOfN(), max_tokens=max_tokens, seed=seed)
    realigner = Realigner(_opened(model), settings)
    return run_sync(realigner.realign([Message("user", question)], [Preference(preference)]))


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Wait for ``work`` from synchronous code, also where an event loop runs already (a notebook).

    An interrupt cancels the work before it goes on to the caller.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _run_beside(work)


def _run_beside(work: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own in another thread, because this thread's loop is busy waiting for us."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="preftilt-sync", daemon=True)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return running.result()
    finally:
        running.cancel()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        if not thread.is_alive():
            loop.close()


@cache
def _opened(model: str) -> Engine:
    return open_engine(model)


def _scored(
    rank: int, candidate: Candidate, query: Query, reward: Reward, text: str
) -> ScoredCandidate:
    line = rewards.line(candidate, query.ratios, reward)
    return ScoredCandidate(
        rank=rank,
        slot=candidate.slot,
        text=text,
        tokens=candidate.tokens,
        finish=candidate.finish,
        logprobs={
            view.name: row for view, row in zip(query.views, candidate.logprobs, strict=True)
        },
        gains=rewards.token_gains(candidate.logprobs, query.ratios),
        question_logprob=line.question_logprob,
        preference_gain=line.preference_gain,
        score=line.at(query.lam),
    )


def _notes(
    query: Query, reward: Reward, candidates: Sequence[ScoredCandidate], max_tokens: int
) -> tuple[str, ...]:
    """What a reader of the result should know before trusting it."""
    notes = []
    if all(one.finish == "length" for one in candidates):
        notes.append(
            f"no candidate ended within {max_tokens} tokens, so a cut-off one was chosen; allow more (max_tokens)"
        )
    lengths = [len(one.tokens) for one in candidates]
    if (
        reward.reduction == "sum"
        and abs(query.lam) >= LARGE_LAMBDA
        and max(lengths) > WIDE_SPREAD * min(lengths)
    ):
        notes.append(
            f"candidates have {min(lengths)} to {max(lengths)} tokens and λ = {query.lam:g}: a sum over tokens then"
            " depends much on length; compare the mean (reduction)"
        )
    return tuple(notes)


def _contenders(candidates: Sequence[ScoredCandidate]) -> list[rewards.Line]:
    """The candidates' lines; unfinished ones cannot win while a finished one exists, as in the ranking."""
    any_finished = any(one.finish == "eos" for one in candidates)
    return [
        rewards.Line(one.question_logprob, one.preference_gain)
        if one.finish == "eos" or not any_finished
        else rewards.IMPOSSIBLE
        for one in candidates
    ]


def _settings_record(
    settings: Settings,
    query: Query,
    preferences: Sequence[Preference],
    max_tokens: int,
    given: bool,
) -> dict[str, Any]:
    search = (
        {"name": "given"} if given else {"name": settings.search.name} | asdict(settings.search)
    )
    return {
        "search": search,
        "lambda": query.lam,
        "preferences": [
            {"text": one.text, "strength": settings.lam if one.strength is None else one.strength}
            for one in preferences
        ],
        **asdict(settings.reward),
        **asdict(settings.prompt),
        **asdict(settings.sampling),
        "max_tokens": max_tokens,
    }
