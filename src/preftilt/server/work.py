"""Answering a job: through the realigner, or plainly where there is no preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from preftilt.api import Realigner
from preftilt.engines.base import Engine, SampleRequest
from preftilt.engines.checks import completions_with_text
from preftilt.engines.waiting import together
from preftilt.messages import Message, check_encodable
from preftilt.prompt import plain_query
from preftilt.result import Realigned, ScoredCandidate
from preftilt.rivals import Judges
from preftilt.run import Prepared, Progress, fit_max_tokens
from preftilt.search import DVTS
from preftilt.server.failures import ApiError
from preftilt.server.request_engine import NewTokens, RequestEngine
from preftilt.server.resolve import Job
from preftilt.types import Completion, Finish, Query, Stream, Tokens, Usage, View


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its text without stop string, and its tokens [T] with log-probs [T], if they are known.

    reasoning: what the model thought before it, which is no part of them.
    """

    text: str
    finish: str
    tokens: Tokens
    logprobs: Float[np.ndarray, "T"] | None
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """A job that passed every check: its query, and its budget of tokens for a response.

    ``prompts`` are what a plain job draws from; any other is ``prepared`` for a realigner.
    """

    job: Job
    query: Query
    max_tokens: int
    prompts: tuple[Tokens, ...] = ()
    prepared: Prepared | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came out for a job; ``record`` is there unless it was plain."""

    choices: tuple[Choice, ...]
    usage: Usage
    candidates: int
    late: int
    record: Realigned | None = None


@dataclass(frozen=True, slots=True)
class JobCallbacks:
    """Who is told what a job does while it does it."""

    drawn: Callable[[NewTokens], None]
    phase: Callable[[Progress], None]


def engine_for(
    engine: Engine, job: Job, callbacks: JobCallbacks | None, began: float
) -> RequestEngine:
    """The engine as ``job`` uses it; ``began`` is when the request came, on the monotonic clock."""
    search = job.settings.search
    single = (job.choices if job.plain else search.candidates) == 1
    lines = 1 if single else search.subtrees if isinstance(search, DVTS) and not job.plain else 0
    return RequestEngine(
        engine,
        stops=job.stops,
        deadline=None if job.deadline_s is None else began + job.deadline_s,
        single=single and callbacks is not None,
        lines=lines,
        tell=None if callbacks is None else callbacks.drawn,
    )


def check(engine: Engine, job: Job, judges: Judges) -> CheckedJob:
    """Raises for all that can be refused before the first token."""
    if job.plain:
        prompts = _plain_prompts(engine, job)
        query = plain_query(max(prompts, key=len))
        room = engine.capabilities.max_context
        budget = fit_max_tokens(query, room, job.settings.max_tokens)
        return CheckedJob(job, query, budget, prompts)
    prepared = Realigner(engine, judges=judges).prepare(
        job.messages, job.preferences, settings=job.settings, prefix=job.prefix
    )
    query = prepared.query
    if job.logprobs and _drawn_view(query.prompt, query.views) is None:
        raise ApiError(
            400,
            "the answers are drawn with all preferences together, and are not scored under that prompt:"
            " leave logprobs out, or take preftilt.details, which has the log-probs of every view",
            param="logprobs",
        )
    return CheckedJob(job, query, prepared.max_tokens, prepared=prepared)


async def answer(
    engine: RequestEngine, checked: CheckedJob, callbacks: JobCallbacks | None, judges: Judges
) -> Answer:
    """Do the work; the engine is that of :func:`engine_for`. The request's stop strings do not bind a judge."""
    job, query = checked.job, checked.query
    if checked.prepared is None:
        return await _plain(engine, checked)
    judges = replace(judges, judge=judges.judge or engine.inner)
    realigner = Realigner(engine, job.settings, judges=judges)
    result = await realigner.answer(
        checked.prepared, on_progress=None if callbacks is None else callbacks.phase
    )
    if engine.late:
        result = replace(result, notes=(*result.notes, _late_note(engine, job)))
    usage = Usage(**result.usage)
    usage.sampled += engine.spilled
    view = _drawn_view(query.prompt, query.views)
    chosen = _distinct_first(result.candidates, job.stops)[: job.choices]
    return Answer(
        choices=tuple(
            Choice(
                before_stop(candidate.text, job.stops),
                _finish_reason(candidate.finish),
                candidate.tokens[candidate.thoughts :],
                candidate.logprobs[view.name][candidate.thoughts :] if view else None,
                candidate.reasoning,
            )
            for candidate in _padded(chosen, job.choices)
        ),
        usage=usage,
        candidates=job.settings.search.candidates,
        late=engine.late,
        record=replace(result, usage={**result.usage, "sampled": usage.sampled}),
    )


async def _plain(engine: RequestEngine, checked: CheckedJob) -> Answer:
    """``n`` independent draws of the model as it is for every prompt, in the order of their slots."""
    job = checked.job
    each = job.choices // len(checked.prompts)
    requests = [
        SampleRequest(
            prompt=prompt,
            slots=tuple(range(place * each, (place + 1) * each)),
            stream=Stream(job.settings.seed),
            sampling=job.settings.sampling,
            max_tokens=checked.max_tokens,
            logprobs=job.logprobs,
        )
        for place, prompt in enumerate(checked.prompts)
    ]
    drawn_each = await together(engine.sample([request]) for request in requests)
    completions = [completion for [some] in drawn_each for completion in some]
    completions_with_text(completions)
    sampled = sum(len(completion.tokens) for completion in completions) + engine.spilled
    return Answer(
        choices=tuple(_plain_choice(engine, completion, job) for completion in completions),
        usage=Usage(prompt={"question": sum(map(len, checked.prompts))}, sampled=sampled),
        candidates=job.choices,
        late=engine.late,
    )


def _plain_choice(engine: Engine, completion: Completion, job: Job) -> Choice:
    tokenizer = engine.tokenizer
    thoughts = 0 if job.prompts else tokenizer.thoughts(completion.tokens)
    tokens = completion.tokens[thoughts:]
    return Choice(
        before_stop(tokenizer.decode(tokens), job.stops),
        _finish_reason(completion.finish),
        tokens,
        completion.logprobs[thoughts:] if job.logprobs else None,
        tokenizer.decode(completion.tokens[:thoughts]),
    )


def _plain_prompts(engine: Engine, job: Job) -> tuple[Tokens, ...]:
    """Token ids of the raw prompts, or of the conversation."""
    if job.prompts:
        for place, text in enumerate(job.prompts):
            check_encodable(text, f"prompt {place}")
        prompts = tuple(engine.tokenizer.encode_raw(text) for text in job.prompts)
        if not all(prompts):
            raise ApiError(400, "the prompt has no tokens; give some text", param="prompt")
        return prompts
    system = job.settings.prompt.system
    messages = job.messages
    if system is not None and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return (engine.tokenizer.render(messages),)


def _drawn_view(prompt: Tokens, views: tuple[View, ...]) -> View | None:
    """The view whose prompt the answers are drawn from, if it is one."""
    return next((view for view in views if view.prompt == prompt and view.reader is None), None)


def _distinct_first(
    candidates: tuple[ScoredCandidate, ...], stops: tuple[str, ...]
) -> list[ScoredCandidate]:
    """Best first, every text once; then the repeats, in the same order."""
    first: dict[str, ScoredCandidate] = {}
    for candidate in candidates:
        first.setdefault(before_stop(candidate.text, stops), candidate)
    distinct = {candidate.slot for candidate in first.values()}
    return sorted(candidates, key=lambda candidate: candidate.slot not in distinct)


def _padded(chosen: list[ScoredCandidate], choices: int) -> list[ScoredCandidate]:
    """As many as were asked for: a search may end with fewer than it drew."""
    return [chosen[i % len(chosen)] for i in range(choices)]


def before_stop(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first stop string."""
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(ends)] if ends else text


def _finish_reason(finish: Finish) -> str:
    """In OpenAI's words, which say no more than that an answer ended where nothing is known of its end."""
    return "stop" if finish in ("eos", "stop_string", "step", "unknown") else finish


def _late_note(engine: RequestEngine, job: Job) -> str:
    return (
        f"the deadline of {job.deadline_s:g} s passed: {engine.late} answers or steps were cut off, and the best"
        " finished answer so far was taken (a cut-off one if none had finished)"
    )
