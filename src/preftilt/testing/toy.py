"""A toy language model behind the real engine contract: exact, instant, and without torch.

Searches, scores and the driver are tested against it, and all outcomes of a random algorithm can be enumerated on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b

import numpy as np
from jaxtyping import Float

from preftilt.arm.spec import Objective
from preftilt.engines.base import (
    Capabilities,
    Engine,
    EngineInfo,
    GuideRequest,
    Increment,
    KnownArm,
    NormaliseRequest,
    Proposal,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
)
from preftilt.engines.checks import RequestChecker, check_guide, check_normalise
from preftilt.engines.vocabulary import step_ended
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.guided import adapted, combine, masked, pick
from preftilt.messages import Message, Prompt
from preftilt.prompt import ChatTokenizer
from preftilt.streams import position_key, stream_key
from preftilt.types import Completion, Finish, GuidedCompletion, Reader, Step, Tokens

NextLogprobs = Callable[[Tokens], Float[np.ndarray, "V"]]
"""A language model in one function: context → log-probs of the next token (nats, normalised)."""

WORDS = ("<end>", "\n", "maths", "play", "points", "draw", "read", "sleep", ".", " ", "not", "win")


def hashed_bigrams(seed: int, vocabulary: int = len(WORDS), sharpness: float = 1.5) -> NextLogprobs:
    """A model whose next token depends on the context's first tokens (the prompt) and its last one.

    The first four tokens stand for the prompt: two prompts give two different models, as REAR needs. The rows are
    read-only: those asked for again are not computed again.
    """

    @lru_cache(maxsize=4096)
    def row(first: Tokens, last: Tokens) -> Float[np.ndarray, "V"]:
        text = f"{seed}/{first}/{last}".encode()
        rng = np.random.default_rng(int.from_bytes(blake2b(text, digest_size=8).digest(), "little"))
        logits = sharpness * rng.standard_normal(vocabulary)
        logprobs = logits - np.log(np.exp(logits).sum())
        logprobs.flags.writeable = False
        return logprobs

    return lambda context: row(context[:4], context[-1:])


def _guided_pick(request: GuideRequest, raw: Float[np.ndarray, "K V"], key: int) -> int:
    """The token that guided decoding draws, from the log-probs ``raw`` of every view."""
    weights = [view.weight for view in request.views]
    by_token = adapted(raw, weights) if request.strength_by == "divergence" else weights
    guided = masked(combine(raw, by_token), raw[request.preferred], request.mask)
    return pick(guided, request.sampling, key)


@dataclass(frozen=True, slots=True)
class ToyTokenizer(ChatTokenizer):
    """One token per known word or character; the messages are hashed into the prompt so that views differ."""

    words: tuple[str, ...] = WORDS

    def render(self, messages: Sequence[Message]) -> Tokens:
        """Four tokens that hash the whole conversation, images included, and a fifth that begins the answer."""
        seen = "".join(image.digest for message in messages for image in message.images)
        digest = blake2b((repr(messages) + seen).encode(), digest_size=4).digest()
        return Prompt((*(byte % len(self.words) for byte in digest), 2), messages)

    def encode(self, text: str) -> Tokens:
        """Longest match first."""
        tokens: list[int] = []
        while text:
            hit = max((w for w in self.words[1:] if text.startswith(w)), key=len, default=None)
            if hit is None:
                raise EngineError(f"the toy vocabulary cannot spell {text!r}")
            tokens.append(self.words.index(hit))
            text = text[len(hit) :]
        return tuple(tokens)

    def encode_response(self, text: str, after: str = "") -> Tokens:
        """The same ids wherever the text stands."""
        return self.encode(text)

    def decode(self, tokens: Tokens) -> str:
        return "".join(self.words[token] for token in tokens if token != 0)

    def pieces(self, tokens: Tokens) -> list[str]:
        return [self.words[token] for token in tokens]

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        return [self.words[token].encode() if token else None for token in tokens]

    def encode_raw(self, text: str) -> Tokens:
        try:
            return self.encode(text)
        except EngineError as failure:
            raise BadInput(str(failure)) from failure


@dataclass(frozen=True, slots=True)
class ToyArm:
    """A toy reward model: a preference vector over ``objectives`` → a language model."""

    objectives: tuple[Objective, ...]
    under: Callable[[tuple[float, ...]], NextLogprobs]


@dataclass(slots=True)
class ToyEngine(Engine):
    """The engine contract over a :data:`NextLogprobs`; ``counts`` are the tokens sampled and scored."""

    next_logprobs: NextLogprobs = field(default_factory=lambda: hashed_bigrams(0))
    max_context: int = 512
    sampler_logprobs: bool = True
    guided_logprobs: bool = False
    name: str = "toy"  # pyright: ignore[reportIncompatibleMethodOverride]
    model: str = "toy"  # pyright: ignore[reportIncompatibleMethodOverride]
    tokenizer: ToyTokenizer = field(  # pyright: ignore[reportIncompatibleMethodOverride]
        default_factory=ToyTokenizer
    )
    arms: Mapping[str, ToyArm] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("sampled", "scored"), 0))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            max_context=self.max_context,
            eos=frozenset({0}),
            turn_end=0,
            sampler_logprobs=self.sampler_logprobs,
            keyed_streams=True,
            guides=True,
            guided_logprobs=self.guided_logprobs,
            proposes=True,
            normalises=True,
            arms=tuple(KnownArm(name, arm.objectives, "toy") for name, arm in self.arms.items()),
        )

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name=self.name,
            model=self.model,
            capabilities=self.capabilities,
            tokenizer=self.tokenizer,
            versions={"numpy": np.__version__},
        )

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        await asyncio.sleep(0)
        return [[self._continue(request, slot) for slot in request.slots] for request in requests]

    async def stream(
        self, request: SampleRequest | GuideRequest
    ) -> AsyncGenerator[Increment, None]:
        """A token of every slot in turn."""
        if isinstance(request, SampleRequest):
            [drawn] = await self.sample([request])
        else:
            [drawn] = await self.guide([request])
        for position in range(max((len(response.tokens) for response in drawn), default=0)):
            await asyncio.sleep(0)
            for slot, response in zip(request.slots, drawn, strict=True):
                if position < len(response.tokens):
                    yield Increment(
                        slot=slot,
                        start=position,
                        tokens=response.tokens[position : position + 1],
                        logprobs=response.logprobs[..., position : position + 1],
                        finish=response.finish if position + 1 == len(response.tokens) else None,
                    )

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        await asyncio.sleep(0)
        return [self._score(request) for request in requests]

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        await asyncio.sleep(0)
        for request in requests:
            check_guide(request)
        return [[self._guided(request, slot) for slot in request.slots] for request in requests]

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        await asyncio.sleep(0)
        return [self._propose(request) for request in requests]

    async def normalise(
        self, requests: Sequence[NormaliseRequest]
    ) -> list[Float[np.ndarray, "R T"]]:
        await asyncio.sleep(0)
        return [self._normalise(request) for request in requests]

    def close(self) -> None:
        pass

    def _continue(self, request: SampleRequest, slot: int) -> Completion:
        reads = [(request.prompt, self.next_logprobs)]
        drawn = self._draw(
            request, reads, slot, lambda raw, key: pick(raw[0], request.sampling, key)
        )
        return Completion(drawn.tokens, drawn.logprobs[0], drawn.finish)

    def _guided(self, request: GuideRequest, slot: int) -> GuidedCompletion:
        reads = [(view.prompt, self._read_by(view.reader)) for view in request.views]
        return self._draw(request, reads, slot, partial(_guided_pick, request))

    def _draw(
        self,
        request: SampleRequest | GuideRequest,
        reads: Sequence[tuple[Tokens, NextLogprobs]],
        slot: int,
        choose: Callable[[Float[np.ndarray, "K V"], int], int],
    ) -> GuidedCompletion:
        """Draw token by token, each chosen from the next-token log-probs after every prompt."""
        for prompt, _ in reads:
            self._check_room(prompt + request.prefix)
        key = stream_key(request.stream, slot)
        tokens: Tokens = ()
        logprobs: list[Float[np.ndarray, "K"]] = []
        finish: Finish | None = None
        while finish is None and len(tokens) < request.max_tokens:
            raw = np.stack([said(p + request.prefix + tokens) for p, said in reads])
            token = choose(raw, position_key(key, len(request.prefix) + len(tokens)))
            tokens += (token,)
            logprobs.append(raw[:, token])
            finish = self._end(tokens, request.step)
        self.counts["sampled"] += len(tokens)
        rows = np.array(logprobs).reshape(len(tokens), len(reads)).T
        return GuidedCompletion(tokens, rows, finish or "length")

    def _end(self, tokens: Tokens, step: Step | None) -> Finish | None:
        if tokens[-1] == 0:
            return "eos"
        if step is None:
            return None
        text = "".join(self.tokenizer.pieces(tokens))
        return "step" if step_ended(text, step.delimiter) else None

    def _propose(self, request: ProposeRequest) -> Proposal:
        self._check_words(request.prefix)
        self._check_room(request.prompt + request.prefix)
        raw = self.next_logprobs(request.prompt + request.prefix)
        best = np.argsort(-raw, kind="stable")[: request.count]
        return Proposal(tuple(best.tolist()), raw[best])

    def _normalise(self, request: NormaliseRequest) -> Float[np.ndarray, "R T"]:
        check_normalise(request)
        completion = request.reads[0].completion
        logprobs = np.zeros((len(request.mixtures), len(completion)))
        for t, token in enumerate(completion):
            contexts = [read.prompt + read.prefix + completion[:t] for read in request.reads]
            said = [self._read_by(read.reader) for read in request.reads]
            raw = np.stack([say(context) for say, context in zip(said, contexts, strict=True)])
            for row, mixture in enumerate(request.mixtures):
                blended = combine(raw, mixture.weights)
                left = masked(blended, raw[mixture.preferred], mixture.mask)
                logprobs[row, t] = left[token] - np.logaddexp.reduce(left)
        return logprobs

    def _score(self, request: ScoreRequest) -> Float[np.ndarray, "T"]:
        self._check_words(request.prefix + request.completion)
        self._check_room(request.prompt + request.prefix + request.completion)
        context = request.prompt + request.prefix
        self.counts["scored"] += len(request.completion)
        said = self._read_by(request.reader)
        return np.array(
            [
                said(context + request.completion[:t])[token]
                for t, token in enumerate(request.completion)
            ],
            dtype=np.float64,
        )

    def _read_by(self, reader: Reader | None) -> NextLogprobs:
        """The language model that ``reader`` stands for: the base, or a reward model under its preference vector."""
        if reader is None:
            return self.next_logprobs
        able = self.capabilities
        RequestChecker(self.model, able, len(self.tokenizer.words)).check_reader(reader)
        return self.arms[reader.arm].under(reader.alpha)

    def _check_words(self, tokens: Tokens) -> None:
        bad = next((token for token in tokens if not 0 <= token < len(self.tokenizer.words)), None)
        if bad is not None:
            raise BadInput(f"token {bad} is not in the vocabulary of {self.model}")

    def _check_room(self, tokens: Tokens) -> None:
        if len(tokens) > self.max_context:
            over = len(tokens) - self.max_context
            raise PromptTooLong(f"{over} tokens too many for a context of {self.max_context}")
