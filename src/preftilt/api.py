"""The library's API: ``realign`` for one call, ``Realigner`` for many on one engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock, Thread
from typing import Any, TypeVar

import numpy as np

from preftilt.engines.base import Engine
from preftilt.engines.guides import can_guide
from preftilt.engines.models import default_model
from preftilt.engines.open import open_engine
from preftilt.errors import BadInput, PromptTooLong
from preftilt.guided.args import TrajectoryReward
from preftilt.images import image_cache
from preftilt.messages import Message, check_encodable
from preftilt.prompt import (
    REASONING_TAGS,
    answer_text,
    build_query,
    build_question,
    check_unended,
    thoughts_in,
)
from preftilt.readers import resolve, with_arms
from preftilt.recording import FinishedRun, record
from preftilt.result import Realigned
from preftilt.rivals import (
    ByLogprob,
    CandidatePool,
    Judges,
    Ranking,
    check_method,
    pick,
    search_score,
)
from preftilt.rivals.checks import for_reward_model
from preftilt.rivals.trajectory import trajectory_reward
from preftilt.run import OnProgress, Run, check_guided, fit_max_tokens
from preftilt.search import ARGS, ArmGuided, AutoSearch, Search, rank, rear
from preftilt.settings import Settings, settled
from preftilt.types import Candidate, Completion, Preference, Query, Stream

T = TypeVar("T")


LONG_CHARACTERS = 4_000
"""Requests with more text than that are prepared beside the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that passed every check, with its prompts: all that answering it takes besides an engine.

    settings: with everything decided. max_tokens: its token budget for a response.
    """

    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    settings: Settings
    query: Query
    max_tokens: int
    trajectory: TrajectoryReward | None = None


def is_long(messages: Sequence[Message], preferences: Sequence[Preference]) -> bool:
    """Whether making a request's prompts takes so long that an event loop should not wait for it."""
    characters = sum(len(message.content) for message in messages)
    characters += sum(len(preference.text) for preference in preferences)
    return characters > LONG_CHARACTERS or any(message.images for message in messages)


class Realigner:
    """Answers requests on one open engine. Share it between tasks: requests at the same time share batches.

    ::

        realigner = Realigner(open_engine("demo"), Settings(lam=5))
        result = await realigner.realign([Message("user", question)], [Preference("No games, please.")])

    Args:
        engine: what :func:`~preftilt.engines.open.open_engine` returned; closing it is the caller's.
        settings: of requests that bring none.
        judges: the models that methods such as ``reward-model`` need besides the engine; closing them is the caller's.
    """

    def __init__(
        self, engine: Engine, settings: Settings | None = None, *, judges: Judges | None = None
    ) -> None:
        self.engine = engine
        self.settings = settings or Settings()
        self.judges = judges or Judges()

    async def realign(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        *,
        settings: Settings | None = None,
        item: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Realigned:
        """Draw candidates, score them under every view and pick one.

        Args:
            messages: the conversation; the last turn is the user's.
            preferences: what the user wants. With none, the model answers as it is.
            settings: replaces the realigner's for this request.
            item: names the request's random numbers, and is the result's ``id``. The same seed, item and request give
                the same answer, alone or beside others.
            on_progress: called from the event loop as tokens are drawn and scored (:class:`~preftilt.run.Progress`).

        Raises:
            BadInput: the request cannot be answered as stated; no token was drawn.
            EngineError: the engine failed; :class:`~preftilt.errors.EngineTimeout` if it did not answer in time.
        """
        began = time.perf_counter()
        prepared = await self._prepared(messages, preferences, self.settled(settings))
        return await self.answer(prepared, item=item, on_progress=on_progress, began=began)

    async def answer(
        self,
        prepared: Prepared,
        *,
        item: str | None = None,
        on_progress: OnProgress | None = None,
        began: float | None = None,
    ) -> Realigned:
        """As :meth:`realign`, for a request that :meth:`prepare` has checked: its prompts are not made again.

        Args:
            prepared: the request.
            item: as in :meth:`realign`.
            on_progress: as in :meth:`realign`.
            began: when the request's time began to count (``time.perf_counter``); now if None.
        """
        began = time.perf_counter() if began is None else began
        run = self._run(prepared, item, on_progress)
        outcome = await run.search(prepared.settings.search)
        return await self._record(
            prepared, run, item, outcome.ranked, responses_given=False, began=began
        )

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
        """Score given responses, drawing nothing.

        A response's text is tokenised once, ended as the model ends a turn, and scored by those ids under every view.

        Args:
            messages: the conversation; the last turn is the user's.
            preferences: what the user wants.
            responses: texts, at least one, none empty.
            settings: as in :meth:`realign`; the search has no effect.
            item: the result's ``id``.
            on_progress: as in :meth:`realign`.

        Returns:
            A record as that of :meth:`realign`, with the search named "given".

        Raises:
            BadInput: as in :meth:`realign`, and for a response that cannot be an answer of this model.
            PromptTooLong: a response does not fit behind its prompt.
        """
        began = time.perf_counter()
        settings = settled(settings or self.settings, guides=False)  # Nothing is drawn.
        prepared = await self._prepared(messages, preferences, settings)
        run = self._run(prepared, item, on_progress)
        candidates = await run.score_given(self.check_responses(prepared.query, responses))
        ranked = rank(candidates, rear(prepared.query, settings.reward))
        return await self._record(prepared, run, item, ranked, responses_given=True, began=began)

    def settled(self, settings: Settings | None = None) -> Settings:
        """``settings``, or the realigner's own, with the search and λ filled in that they leave to the engine."""
        return settled(settings or self.settings, guides=can_guide(self.engine))

    def prepare(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        *,
        settings: Settings | None = None,
    ) -> Prepared:
        """Check a request and make its prompts; nothing is drawn.

        A long request takes milliseconds per thousand tokens: call this from a thread where an event loop must not
        wait.

        Raises:
            BadInput: for everything that can be refused before the first token, with what to do about it.
        """
        settings = self.settled(settings)
        with image_cache():
            query = self._query(messages, preferences, settings)
        check_method(
            settings.method,
            messages,
            preferences,
            settings.strength,
            settings.prompt,
            self.engine,
            self.judges,
        )
        trajectory = self._trajectory(messages, preferences, settings)
        check_guided(self.engine, settings.search, query, trajectory)
        room = self.engine.capabilities.max_context
        return Prepared(
            messages=tuple(messages),
            preferences=tuple(preferences),
            settings=settings,
            query=query,
            max_tokens=fit_max_tokens(query, room, settings.max_tokens),
            trajectory=trajectory,
        )

    async def _prepared(
        self, messages: Sequence[Message], preferences: Sequence[Preference], settings: Settings
    ) -> Prepared:
        """As :meth:`prepare`; a long request is prepared beside the event loop, for others to go on."""
        work = partial(self.prepare, messages, preferences, settings=settings)
        return await asyncio.to_thread(work) if is_long(messages, preferences) else work()

    def _query(
        self, messages: Sequence[Message], preferences: Sequence[Preference], settings: Settings
    ) -> Query:
        """The request's views: of its preferences, and of the reward models that it names."""
        tokenizer = self.engine.tokenizer
        reads = resolve(settings.arms, self.engine.capabilities.arms, self.engine.name)
        if isinstance(settings.search, ArmGuided) and not reads:
            raise BadInput(
                "the search 'arm' draws with reward models, and none is named: name one with --arm NAME=FOLDER (in a"
                ' request "arm": NAME; in the library Settings(arms=ArmSettings(names=(NAME,))))'
            )
        if reads and not preferences and settings.prompt.history == "both":
            return with_arms(build_question(tokenizer, messages, settings.prompt), reads)
        query = build_query(
            tokenizer, messages, preferences, lam=settings.strength, settings=settings.prompt
        )
        return with_arms(query, reads)

    def check_responses(self, query: Query, responses: Sequence[str]) -> list[Completion]:
        """Given responses as the model would have drawn them: closed with one end of turn, and none before.

        ``query`` is that of :meth:`prepare`. Raises :class:`~preftilt.errors.BadInput` if there are none or one
        is empty, and :class:`~preftilt.errors.PromptTooLong` if one does not fit behind the longest prompt.
        """
        if not responses or not all(text.strip() for text in responses):
            raise BadInput("there must be at least one response, and none may be empty")
        return [self._given(number, text, query) for number, text in enumerate(responses, start=1)]

    def _run(self, prepared: Prepared, item: str | None, on_progress: OnProgress | None) -> Run:
        settings, query = prepared.settings, prepared.query
        check_encodable(item or "", "the item's name")
        return Run(
            engine=self.engine,
            query=query,
            sampling=settings.sampling,
            reward=settings.reward,
            stream=Stream(settings.seed, item or ""),
            max_tokens=prepared.max_tokens,
            on_progress=on_progress,
            search_score=search_score(settings.method, query, settings.reward),
            trajectory=prepared.trajectory,
        )

    async def _record(
        self,
        prepared: Prepared,
        run: Run,
        item: str | None,
        ranked: Sequence[Candidate],
        *,
        responses_given: bool,
        began: float,
    ) -> Realigned:
        """The result, its candidates ranked by the method; ``ranked`` is their order by REAR's score."""
        ranking = await self._pick(run, prepared, ranked)
        return record(
            FinishedRun(
                engine=self.engine,
                run=run,
                settings=prepared.settings,
                preferences=prepared.preferences,
                item=item,
                ranked=ranked if ranking is None else ranking.candidates,
                ranking=ranking,
                responses_given=responses_given,
                seconds=time.perf_counter() - began,
            )
        )

    def _trajectory(
        self, messages: Sequence[Message], preferences: Sequence[Preference], settings: Settings
    ) -> TrajectoryReward | None:
        """The reward model as a search that lets one choose tokens asks it; checked to be able to read the request."""
        model = self.judges.reward_model
        if not isinstance(settings.search, ARGS) or model is None:
            return None
        read = for_reward_model(messages, preferences, settings.prompt, "system")
        model.check(read)
        return trajectory_reward(model, read, self.engine.tokenizer)

    def _given(self, number: int, text: str, query: Query) -> Completion:
        able = self.engine.capabilities
        try:
            check_encodable(text, "its text")
            check_unended(text, self.engine.tokenizer, able.eos)
            tokens = self.engine.tokenizer.encode_response(text)
        except BadInput as failure:
            raise BadInput(f"response {number}: {failure}") from failure
        if tokens and tokens[-1] in able.eos:
            tokens = tokens[:-1]
        if able.eos.intersection(tokens):
            raise BadInput(
                f"response {number} has an end-of-turn token before its end; take it out"
            )
        if tokens and thoughts_in(self.engine.tokenizer, tokens) == len(tokens):
            raise BadInput(
                f"response {number} has thoughts and no answer: {REASONING_TAGS[1]} is missing, which ends what the"
                f" prompt or the response begins with {REASONING_TAGS[0]}; give the answer, too, or turn thinking off"
            )
        over = max(len(view.prompt) for view in query.views) + len(tokens) + 1 - able.max_context
        if over > 0:
            raise PromptTooLong(
                f"response {number} has {len(tokens) + 1} tokens; with the prompt that is {over} more than the model's"
                f" context of {able.max_context}: shorten one of them"
            )
        return Completion((*tokens, able.turn_end), np.zeros(len(tokens) + 1), "eos")

    async def _pick(
        self, run: Run, prepared: Prepared, candidates: Sequence[Candidate]
    ) -> Ranking | None:
        """The candidates as the method ranks them; None if that is REAR's score, by which they are ranked already."""
        settings = prepared.settings
        if settings.method == ByLogprob():
            return None
        drawn = tuple(sorted(candidates, key=lambda candidate: candidate.slot))
        pool = CandidatePool(
            candidates=drawn,
            texts=tuple(
                answer_text(self.engine.tokenizer, candidate.tokens) for candidate in drawn
            ),
            query=run.query,
            reward=settings.reward,
            stream=run.stream,
            messages=prepared.messages,
            preferences=prepared.preferences,
            prompt=settings.prompt,
        )
        run.clock.enter("picking")
        try:
            ranking = await pick(pool, settings.method, self.engine, self.judges)
        finally:
            run.clock.leave("picking")
        run.usage.method = ranking.cost
        return ranking


def realign(
    question: str,
    preference: str,
    *,
    lam: float | None = None,
    search: Search | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Realigned:
    """Answer one question, following one preference; for scripts and notebooks.

    The model is opened at the first call and kept until a call names another one. For several preferences, a
    conversation, other sampling settings or many requests at once use :class:`Realigner`.

    Args:
        question: what the user asks.
        preference: what the user wants, in words.
        lam: strength λ (REAR, arXiv 2606.30339, eq. 9): 1 is the model as it is, a larger λ follows the preference
            more strongly. None takes the search's default.
        search: how candidates come about. None takes what suits the engine (:class:`~preftilt.search.AutoSearch`).
        model: what :func:`~preftilt.engines.open.open_engine` opens. None is SmolLM2 where it is installed, and the
            bundled model where it is not.
        max_tokens: of an answer. None takes 512, or what the context leaves.
        seed: the same seed gives the same answer.

    Returns:
        The answer (``text``), all candidates with their scores, and which of them every other λ would choose
        (``path``).

    Raises:
        BadInput: the request cannot be answered as stated; no token was drawn.
        MissingPackage: the model needs a package that is not installed.
        EngineError: the engine failed.
    """
    settings = Settings(lam=lam, search=search or AutoSearch(), max_tokens=max_tokens, seed=seed)
    realigner = Realigner(opened(model or default_model()), settings)
    return run_sync(realigner.realign([Message("user", question)], [Preference(preference)]))


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine from synchronous code, also where an event loop runs already, as in a notebook.

    An interrupt (Ctrl-C) cancels the work before it is raised here. What the work raises is raised here, too.
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


_OPEN: dict[str, Engine] = {}
_OPENING = Lock()


def opened(model: str) -> Engine:
    """The engine of calls that name a ``model``: that of the last call, or a new one in its place. Engines close when
    nobody is left who uses them."""
    with _OPENING:
        if model not in _OPEN:
            _OPEN.clear()
            _OPEN[model] = open_engine(model)
        return _OPEN[model]
