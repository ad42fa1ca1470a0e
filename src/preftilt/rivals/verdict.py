"""The generative reward model: a language model says whether a response is preferred, and how surely.

The judge reads the conversation with the preference, the response, and an instruction to answer in the form
"Preferred: Yes" or "Preferred: No"; a response's score is log P(Yes) − log P(No) where the verdict stands. It needs no
more of an engine than to sample and to score, so every engine can be the judge.

- ``forced``: the judge's turn begins with "Preferred:", written by us; one reading a response.
- ``cot``: the judge writes its reasons first, until it says "Preferred:" by itself.

Spellings of a verdict (with and without a space and a capital) are added up. Differences to the published code of REAR
(arXiv 2606.30339), which follow the paper: log-probs of both verdicts rather than the gap of the two most likely
tokens' probabilities; the judge gets a conversation in its own template, not another model's prompt as text; a verdict
that is missing, or a response too long to be judged, has no score and is counted, where the code gives −1 or 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.waiting import together
from preftilt.errors import BadInput, PromptTooLong
from preftilt.messages import Message
from preftilt.rivals.methods import ByJudge
from preftilt.types import Sampling, Step, Stream, Tokens

LEAD = "Preferred:"
YES = (" Yes", "Yes", " yes", "yes")
NO = (" No", "No", " no", "no")

TASK = (
    "Now be an impartial judge of your last answer. It is preferred if it helps with what was asked, keeps to every"
    " wish that was stated, and does no harm."
)
FORCED = f'{TASK} Reply with nothing but "{LEAD} Yes" or "{LEAD} No".'
REASONED = (
    f"{TASK} First say briefly what speaks for it and what against it. Then end with a line that is"
    f' "{LEAD} Yes" or "{LEAD} No".'
)


@dataclass(frozen=True, slots=True)
class JudgeVerdict:
    """The judge's verdict on one response.

    score: log P(Yes) − log P(No) in nats; None if no verdict could be read. mass: P(Yes) + P(No), near 1 if the judge
    understood what it was asked. forwards: sequences that were scored; the spellings of a verdict behind the same
    words count as one. read, sampled: tokens scored and tokens drawn.
    """

    score: float | None
    mass: float = 0.0
    forwards: int = 0
    read: int = 0
    sampled: int = 0


@dataclass(frozen=True, slots=True)
class GenerativeRewardModel:
    """A language model as a judge; ``engine`` may be the one that wrote the responses."""

    engine: Engine
    method: ByJudge

    def check(self, messages: Sequence[Message]) -> None:
        """Raises :class:`~preftilt.errors.BadInput` if the judge could read no response to this conversation."""
        if self.engine.tokenizer.opens_thoughts and self.method.judge_mode == "forced":
            raise BadInput(
                f"the judge {self.engine.name} begins every answer with thoughts, and its verdict is read where an"
                " answer begins; turn thinking off, take another judge, or let it give reasons (--judge-mode cot)"
            )
        room = self.engine.capabilities.max_context
        shortest = len(self._prompt(messages, "-")) + self._most_tokens()
        if shortest > room:
            raise PromptTooLong(
                f"the judge {self.engine.name} needs {shortest} tokens before it has read a response, and its context"
                f" has {room}: shorten the conversation, lower judge_tokens, or take a judge with a longer context"
            )

    async def judge(
        self, messages: Sequence[Message], responses: Sequence[str], stream: Stream
    ) -> list[JudgeVerdict]:
        """One verdict a response, in order; all are judged side by side.

        ``messages`` state the preference. ``stream`` is the randomness of the judge's reasons, a slot a response.
        """
        return await together(
            self._judge(messages, text, stream, slot) for slot, text in enumerate(responses)
        )

    async def _judge(
        self, messages: Sequence[Message], response: str, stream: Stream, slot: int
    ) -> JudgeVerdict:
        prompt = self._prompt(messages, response)
        if len(prompt) + self._most_tokens() > self.engine.capabilities.max_context:
            return JudgeVerdict(None)
        if self.method.judge_mode == "forced":
            return await self._read(prompt, self._lead(), sampled=0)
        reasons, sampled = await self._reasons(prompt, stream, slot)
        if reasons is None:
            return JudgeVerdict(None, forwards=1, read=len(prompt), sampled=sampled)
        return await self._read(prompt, reasons, sampled=sampled)

    async def _reasons(
        self, prompt: Tokens, stream: Stream, slot: int
    ) -> tuple[Tokens | None, int]:
        """What the judge writes up to its "Preferred:", None if it never comes to it; and how many tokens it wrote."""
        request = SampleRequest(
            prompt=prompt,
            slots=(slot,),
            stream=stream,
            sampling=Sampling(temperature=self.method.judge_temperature),
            max_tokens=self.method.judge_tokens,
            step=Step(LEAD),
            keep=True,
            logprobs=False,
        )
        [[written]] = await self.engine.sample([request])
        said = "".join(self.engine.tokenizer.pieces(written.tokens))
        ready = written.finish == "step" and said.rstrip().endswith(LEAD)
        return (written.tokens if ready else None), len(written.tokens)

    async def _read(self, prompt: Tokens, prefix: Tokens, *, sampled: int) -> JudgeVerdict:
        """The verdict behind ``prompt + prefix``; every spelling is scored, and spellings are added up."""
        yes, no = self._spellings(YES), self._spellings(NO)
        requests = [
            ScoreRequest(prompt=prompt, prefix=prefix, completion=spelling)
            for spelling in (*yes, *no)
        ]
        logprobs = [float(row.sum()) for row in await self.engine.score(requests)]
        for_it, against = _log_sum(logprobs[: len(yes)]), _log_sum(logprobs[len(yes) :])
        never = math.isinf(for_it) and math.isinf(against)
        return JudgeVerdict(
            None if never else for_it - against,
            math.exp(for_it) + math.exp(against),
            forwards=1 + (sampled > 0),
            read=len(prompt) + len(prefix) + sum(len(spelling) for spelling in (*yes, *no)),
            sampled=sampled,
        )

    def _prompt(self, messages: Sequence[Message], response: str) -> Tokens:
        instruction = FORCED if self.method.judge_mode == "forced" else REASONED
        turns = [*messages, Message("assistant", response), Message("user", instruction)]
        return self.engine.tokenizer.render(turns)

    def _most_tokens(self) -> int:
        """Tokens behind the judge's prompt at most."""
        longest = max(len(spelling) for spelling in (*self._spellings(YES), *self._spellings(NO)))
        if self.method.judge_mode == "forced":
            return len(self._lead()) + longest
        return self.method.judge_tokens + longest

    def _lead(self) -> Tokens:
        return self.engine.tokenizer.encode_response(LEAD)

    def _spellings(self, words: Sequence[str]) -> list[Tokens]:
        """Token ids of ``words`` behind the lead; every id sequence once, and none that goes on from another.

        Such a one is counted where that other one is.
        """
        encode = self.engine.tokenizer.encode_response
        spellings = dict.fromkeys(encode(word, after=LEAD) for word in words)
        return [
            ids
            for ids in spellings
            if not any(ids != other and ids[: len(other)] == other for other in spellings)
        ]


def _log_sum(logprobs: Sequence[float]) -> float:
    """log Σ exp, −inf where all are."""
    return float(np.logaddexp.reduce(np.array(logprobs)))
