"""A model you can write down, behind the real engine contract: exact, instant, and without torch.

Searches, scores and the driver are tested against it, and everything a random algorithm can do on it can be enumerated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, SampleRequest, ScoreRequest
from preftilt.engines.guides import GuideRequest, Proposal, ProposeRequest, check_guide
from preftilt.engines.steps import step_ended
from preftilt.errors import EngineError, PromptTooLong
from preftilt.guided import combine, masked, pick
from preftilt.messages import Message
from preftilt.streams import position_key, stream_key
from preftilt.types import Completion, Finish, Guided, Step, Tokens

NextLogprobs = Callable[[Tokens], Float[np.ndarray, "V"]]
"""A language model in one function: context → log-probs of the next token (nats, normalised)."""

WORDS = ("<end>", "\n", "maths", "play", "points", "draw", "read", "sleep", ".", " ", "not", "win")


def hashed_bigrams(seed: int, vocabulary: int = len(WORDS), sharpness: float = 1.5) -> NextLogprobs:
    """A model whose next token depends on the context's first tokens (the prompt) and its last one.

    The first four tokens stand for the prompt: two prompts give two different models, as REAR needs.
    """

    def next_logprobs(context: Tokens) -> Float[np.ndarray, "V"]:
        text = f"{seed}/{context[:4]}/{context[-1:]}".encode()
        rng = np.random.default_rng(int.from_bytes(blake2b(text, digest_size=8).digest(), "little"))
        logits = sharpness * rng.standard_normal(vocabulary)
        return logits - np.log(np.exp(logits).sum())

    return next_logprobs


@dataclass(frozen=True, slots=True)
class ToyTokenizer:
    """One token a known word or character; roles become tokens of their own so that views differ."""

    words: tuple[str, ...] = WORDS

    def render(self, messages: Sequence[Message]) -> Tokens:
        """Four tokens that hash the conversation before the last turn's text, so any change shows."""
        digest = blake2b(repr(messages).encode(), digest_size=4).digest()
        return (*(byte % len(self.words) for byte in digest), 2)

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

    def decode(self, tokens: Tokens) -> str:
        return "".join(self.words[token] for token in tokens if token != 0)

    def pieces(self, tokens: Tokens) -> list[str]:
        return [self.words[token] for token in tokens]


@dataclass(slots=True)
class ToyEngine:
    """The engine contract over a :data:`NextLogprobs`; ``counts`` tallies what was asked of it."""

    next_logprobs: NextLogprobs = field(default_factory=lambda: hashed_bigrams(0))
    max_context: int = 512
    sampler_logprobs: bool = True
    name: str = "toy"
    model: str = "toy"
    tokenizer: ToyTokenizer = field(default_factory=ToyTokenizer)
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
            proposes=True,
        )

    @property
    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        await asyncio.sleep(0)
        return [[self._continue(request, slot) for slot in request.slots] for request in requests]

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        await asyncio.sleep(0)
        return [self._score(request) for request in requests]

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        await asyncio.sleep(0)
        for request in requests:
            check_guide(request)
        return [[self._guided(request, slot) for slot in request.slots] for request in requests]

    async def propose(self, requests: Sequence[ProposeRequest]) -> list[Proposal]:
        await asyncio.sleep(0)
        return [self._propose(request) for request in requests]

    def close(self) -> None:
        pass

    def _continue(self, request: SampleRequest, slot: int) -> Completion:
        def choose(raw: Float[np.ndarray, "1 V"], key: int) -> int:
            return pick(raw[0], request.sampling, key)

        drawn = self._draw(request, [request.prompt], slot, choose)
        return Completion(drawn.tokens, drawn.logprobs[0], drawn.finish)

    def _guided(self, request: GuideRequest, slot: int) -> Guided:
        weights = [view.weight for view in request.views]

        def choose(raw: Float[np.ndarray, "K V"], key: int) -> int:
            guided = masked(combine(raw, weights), raw[request.preferred], request.mask)
            return pick(guided, request.sampling, key)

        return self._draw(request, [view.prompt for view in request.views], slot, choose)

    def _draw(
        self,
        request: SampleRequest | GuideRequest,
        prompts: Sequence[Tokens],
        slot: int,
        choose: Callable[[Float[np.ndarray, "K V"], int], int],
    ) -> Guided:
        """Token by token, each chosen from what the model says after every prompt."""
        for prompt in prompts:
            self._check_room(prompt + request.prefix)
        key = stream_key(request.stream, slot)
        tokens: Tokens = ()
        logprobs: list[Float[np.ndarray, "K"]] = []
        finish: Finish | None = None
        while finish is None and len(tokens) < request.max_tokens:
            raw = np.stack([self.next_logprobs(p + request.prefix + tokens) for p in prompts])
            token = choose(raw, position_key(key, len(request.prefix) + len(tokens)))
            tokens += (token,)
            logprobs.append(raw[:, token])
            finish = self._end(tokens, request.step)
        self.counts["sampled"] += len(tokens)
        rows = np.array(logprobs).reshape(len(tokens), len(prompts)).T
        return Guided(tokens, rows, finish or "length")

    def _end(self, tokens: Tokens, step: Step | None) -> Finish | None:
        if tokens[-1] == 0:
            return "eos"
        if step is None:
            return None
        text = "".join(self.tokenizer.pieces(tokens))
        return "stop" if step_ended(text, step.delimiter) else None

    def _propose(self, request: ProposeRequest) -> Proposal:
        self._check_room(request.prompt + request.prefix)
        raw = self.next_logprobs(request.prompt + request.prefix)
        best = np.argsort(-raw, kind="stable")[: request.count]
        return Proposal(tuple(best.tolist()), raw[best])

    def _score(self, request: ScoreRequest) -> Float[np.ndarray, "T"]:
        self._check_room(request.prompt + request.prefix + request.completion)
        context = request.prompt + request.prefix
        self.counts["scored"] += len(request.completion)
        return np.array(
            [
                self.next_logprobs(context + request.completion[:t])[token]
                for t, token in enumerate(request.completion)
            ],
            dtype=np.float64,
        )

    def _check_room(self, tokens: Tokens) -> None:
        if len(tokens) > self.max_context:
            over = len(tokens) - self.max_context
            raise PromptTooLong(f"{over} tokens too many for a context of {self.max_context}")
