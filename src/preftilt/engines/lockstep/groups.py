"""Asking vLLM for a group: its members' requests, what they agree on, and what is asked again.

A token counts once every member has drawn it at the same position. Members that were not in step have drawn different
tokens there (``rows.py``); then the group is asked for again, from the last token that counts. vLLM has read the
prompts by then, so the members of the next attempt are short, where prefixes are cached, and fit one step more easily.
"""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from preftilt.engines.base import GuideRequest, Increment
from preftilt.engines.lockstep.member_params import MemberParams
from preftilt.engines.vocabulary import Vocabulary, step_ended
from preftilt.engines.waiting import together
from preftilt.errors import EngineError
from preftilt.streams import stream_key
from preftilt.types import Finish, GuidedCompletion, Tokens

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams


def refusals(vocabulary: Vocabulary, members: int) -> Tokens:
    """A token for each member that it draws where its group is not in step: ids that are drawn as seldom as possible.

    Ids that no text stands behind, then the highest, where vocabularies have special and rare tokens. Drawing one in
    step costs an attempt and changes nothing.
    """
    rare = (token for token in range(vocabulary.size - 1, -1, -1) if token not in vocabulary.holes)
    usable = [token for token in (*vocabulary.holes, *rare) if token not in vocabulary.eos]
    return tuple(usable[:members])


@dataclass(eq=False, slots=True)
class Attempt:
    """What the members of a group have drawn so far, and how much of it counts.

    room: tokens that may be drawn. ends: is given every token that counts, with its log-probs [K], and says why the
    response ends with it; None if it goes on. refused: the members' refusals. over: nothing more of it will count.
    outcome: why the response ended; None if it goes on in another attempt. counted: tokens that count. drawn: all that
    each member has drawn.
    """

    members: int
    room: int
    ends: Callable[[int, list[float]], Finish | None]
    refused: Tokens
    outcome: Finish | None = None
    over: bool = False
    counted: int = 0
    drawn: list[list[int]] = field(init=False)
    _logprobs: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.drawn = [[] for _ in range(self.members)]
        self._logprobs = [[] for _ in range(self.members)]

    def take(self, member: int, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """New tokens of a member, with their log-probs under its view."""
        self.drawn[member] += tokens
        self._logprobs[member] += logprobs
        while not self.over and all(len(tokens) > self.counted for tokens in self.drawn):
            self._count()

    def _count(self) -> None:
        place = self.counted
        here = {tokens[place] for tokens in self.drawn}
        if len(here) > 1:
            self.over = True
            return
        self.counted += 1
        [token] = here
        self.outcome = self.ends(token, [row[place] for row in self._logprobs])
        if self.outcome is None and self.counted == self.room:
            self.outcome = "length"
        self.over = self.outcome is not None or token in self.refused


INTERVAL = 8
"""Tokens after which a member is heard of where nobody waits for its single tokens."""

PAUSES = (0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds before an attempt, by how many before it brought not one token; the last one goes on."""

PATIENCE_SECONDS = 300.0
"""How long attempts may bring no token."""


@dataclass(eq=False, slots=True)
class Member:
    """One view of an attempt, as a request to vLLM (:class:`preftilt.engines.vllm.sequences.VllmSequence`).

    stops: tokens that end it. interval: tokens after which it is heard of.
    """

    attempt: Attempt
    member_params: MemberParams
    tokens: Tokens
    stops: Tokens
    interval: int
    future: Future[bool] = field(default_factory=Future)

    @property
    def params(self) -> SamplingParams:
        """Greedy: the token is drawn before, and no other is left. Every other setting is named, as one that does
        nothing, so that no default of vLLM's or of the model's files changes what is drawn."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=1,
            temperature=0.0,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            max_tokens=self.attempt.room,
            ignore_eos=True,
            stop_token_ids=list(self.stops),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            stream_interval=self.interval,
            extra_args=self.member_params.as_args(),
        )

    @property
    def done(self) -> int:
        """Nothing: the group counts."""
        return 0

    def take_output(self, output: RequestOutput) -> bool | None:
        """Takes in new tokens; True once no more of them are wanted."""
        [new] = output.outputs
        entries = zip(new.token_ids, new.logprobs or (), strict=True)
        logprobs = [min(entry[token].logprob, 0.0) for token, entry in entries]
        self.attempt.take(self.member_params.member, new.token_ids, logprobs)
        return True if output.finished or self.attempt.over else None


@dataclass(eq=False, slots=True)
class GroupDrawing:
    """The continuation of one slot of a request for guided drawing.

    room: how many tokens fit the model's context behind the longest view, at most. on_increment: is given the tokens
    that count as they come.
    """

    request: GuideRequest
    slot: int
    vocabulary: Vocabulary
    room: int
    on_increment: Callable[[Increment], None] | None = None
    attempts: int = 0
    _tokens: list[int] = field(default_factory=list)
    _columns: list[list[float]] = field(default_factory=list)
    _text: str = ""
    _reported: int = 0

    @property
    def done(self) -> int:
        """Tokens that count."""
        return len(self._tokens)

    async def draw(self, submit: Callable[[Sequence[Any]], None]) -> GuidedCompletion:
        """The continuation, by as many attempts as it takes; ``submit`` hands requests to vLLM, together.

        Raises :class:`~preftilt.errors.EngineError` if attempts bring nothing for :data:`PATIENCE_SECONDS`.
        """
        budget = min(self.request.max_tokens, self.room)
        finish: Finish | None = None if budget else "length"
        idle, since = 0, time.monotonic()
        while finish is None:
            await asyncio.sleep(PAUSES[min(idle, len(PAUSES) - 1)])
            attempt = await self._attempt(budget - self.done, submit)
            finish = attempt.outcome
            if attempt.counted:
                idle, since = 0, time.monotonic()
            else:
                idle += 1
            if finish is None and time.monotonic() - since > PATIENCE_SECONDS:
                raise EngineError(
                    f"the {len(self.request.views)} views of a guided answer found no step of vLLM that had room for"
                    f" all of them within {PATIENCE_SECONDS:.0f} s: send fewer requests at a time, or start vLLM with"
                    " more room (--max-num-seqs, --max-num-batched-tokens, --gpu-memory-utilization)"
                )
        self._report(finish)
        columns = np.array(self._columns, dtype=np.float64)
        logprobs = columns.reshape(self.done, len(self.request.views)).T
        return GuidedCompletion(tuple(self._tokens), logprobs, finish)

    async def _attempt(self, room: int, submit: Callable[[Sequence[Any]], None]) -> Attempt:
        self.attempts += 1
        attempt, members = self.members(room)
        submit(members)
        await together(asyncio.wrap_future(member.future) for member in members)
        return attempt

    def members(self, room: int) -> tuple[Attempt, list[Member]]:
        """An attempt at ``room`` more tokens, and its members' requests."""
        views = self.request.views
        refused = refusals(self.vocabulary, len(views))
        attempt = Attempt(len(views), room, self._take, refused)
        single = self.request.step is not None or self.on_increment is not None
        before, name = self.request.prefix + tuple(self._tokens), uuid4().hex
        return attempt, [
            Member(
                attempt,
                self._member_params(name, number, refused),
                view.prompt + before,
                stops=tuple(sorted({*self.vocabulary.eos, *refused})),
                interval=1 if single else INTERVAL,
            )
            for number, view in enumerate(views)
        ]

    def _member_params(self, name: str, number: int, refused: Tokens) -> MemberParams:
        request = self.request
        return MemberParams(
            group=name,
            member=number,
            size=len(request.views),
            refusal=refused[number],
            weights=tuple(view.weight for view in request.views),
            sampling=request.sampling,
            key=stream_key(request.stream, self.slot),
            start=len(request.prefix) + self.done,
            vocabulary=self.vocabulary.size,
            holes=self.vocabulary.holes,
            mask=request.mask,
            preferred=request.preferred,
            strength_by=request.strength_by,
        )

    def _take(self, token: int, logprobs: list[float]) -> Finish | None:
        """A token that counts, with its log-probs [K]; why the response ends with it, if it does."""
        self._tokens.append(token)
        self._columns.append(logprobs)
        if token in self.vocabulary.eos:
            return "eos"
        if self.request.step is not None:
            delimiter = self.request.step.delimiter
            self._text = self.vocabulary.extended_step_text(self._text, self._tokens, delimiter)
            if step_ended(self._text, delimiter):
                return "step"
        self._report(None)
        return None

    def _report(self, finish: Finish | None) -> None:
        """Report the tokens that nobody has been told of yet."""
        if self.on_increment is None:
            return
        start, self._reported = self._reported, self.done
        fresh = np.array(self._columns[start:], dtype=np.float64)
        self.on_increment(
            Increment(
                slot=self.slot,
                start=start,
                tokens=tuple(self._tokens[start:]),
                logprobs=fresh.reshape(-1, len(self.request.views)).T,
                finish=finish,
            )
        )
