"""The library's API: ``realign`` for one call, ``Realigner`` for many on one engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from threading import Lock, Thread
from typing import Any, TypeVar

from preftilt.engines.base import Engine
from preftilt.engines.models import default_model
from preftilt.engines.open import open_engine
from preftilt.messages import Message, check_encodable
from preftilt.prompt import (
    answer_text,
)
from preftilt.recording import FinishedRun, record
from preftilt.result import Realigned
from preftilt.rivals import (
    ByLogprob,
    CandidatePool,
    Judges,
    Ranking,
    pick,
    search_score,
)
from preftilt.run import OnProgress, Prepared, Run, given_completions, is_long, prepare
from preftilt.search import AutoSearch, Search, rank, rear
from preftilt.settings import Settings, settled
from preftilt.types import Candidate, Completion, Preference, Query, Stream, Tokens

T = TypeVar("T")


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
        prefix: Tokens = (),
        item: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Realigned:
        """Draw candidates, score them under every view and pick one.

        Args:
            messages: the conversation; the last turn is the user's.
            preferences: what the user wants. With none, the model answers as it is.
            settings: replaces the realigner's for this request.
            prefix: token ids that every candidate begins with, such as the first tokens of another's; they are scored,
                not drawn, and count for ``max_tokens``.
            item: names the request's random numbers, and is the result's ``id``. The same seed, item and request give
                the same answer, alone or beside others.
            on_progress: called from the event loop as tokens are drawn and scored (:class:`~preftilt.run.Progress`).

        Raises:
            BadInput: the request cannot be answered as stated; no token was drawn.
            EngineError: the engine failed; :class:`~preftilt.errors.EngineTimeout` if it did not answer in time.
        """
        began = time.perf_counter()
        prepared = await self._prepared(messages, preferences, settings or self.settings, prefix)
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
        return settled(settings or self.settings, guides=self.engine.capabilities.guides)

    def prepare(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        *,
        settings: Settings | None = None,
        prefix: Tokens = (),
    ) -> Prepared:
        """Check a request and make its prompts; nothing is drawn. ``prefix`` is as in :meth:`realign`.

        A long request takes milliseconds per thousand tokens: call this from a thread where an event loop must not
        wait.

        Raises:
            BadInput: for everything that can be refused before the first token, with what to do about it.
        """
        return prepare(
            self.engine, self.judges, messages, preferences, settings or self.settings, prefix
        )

    async def _prepared(
        self,
        messages: Sequence[Message],
        preferences: Sequence[Preference],
        settings: Settings,
        prefix: Tokens = (),
    ) -> Prepared:
        """As :meth:`prepare`; a long request is prepared beside the event loop, for others to go on."""
        work = partial(self.prepare, messages, preferences, settings=settings, prefix=prefix)
        return await asyncio.to_thread(work) if is_long(messages, preferences) else work()

    def check_responses(self, query: Query, responses: Sequence[str]) -> list[Completion]:
        """See :func:`~preftilt.run.prepare.given_completions`; ``query`` is that of :meth:`prepare`."""
        return given_completions(self.engine, query, responses)

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
            prefix=prepared.prefix,
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
