"""A stand-in for llama.cpp's context, which has no wheel and cannot be built within the ordinary tests.

It keeps cells and sequences as llama.cpp does, and insists on what llama.cpp would refuse or get silently wrong: a
position that does not follow, a cell too many, an unknown sequence. The model behind it depends on every token of the
context, so a sequence that was mixed up shows in the logits. The engine on the real llama.cpp is tested in
``test_laws.py`` and its neighbours, which carry the marker ``servers``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from preftilt.engines.base import Capabilities, EngineInfo
from preftilt.engines.llamacpp.batch_tasks import StopCriteria
from preftilt.engines.llamacpp.bindings import ContextSettings
from preftilt.engines.llamacpp.engine import LlamaCppEngine
from preftilt.engines.llamacpp.probe import Agreement
from preftilt.engines.llamacpp.scheduler import LlamaCppLimits, LlamaCppScheduler
from preftilt.testing.toy import WORDS, ToyEngine, ToyTokenizer
from preftilt.types import Tokens

CONTEXT = 96


def whole_context(context: Tokens) -> np.ndarray:
    """Log-probs of the next token, by a hash of all that stands before it."""
    digest = blake2b(repr(tuple(context)).encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    # Rounded as logits come out of llama.cpp, so that the oracle sees the same numbers.
    logits = rng.standard_normal(len(WORDS)).astype(np.float32).astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def oracle() -> ToyEngine:
    """The same model behind the reference engine."""
    return ToyEngine(next_logprobs=whole_context, max_context=CONTEXT)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The one thing the scheduler asks of a model."""

    size: int = len(WORDS)


@dataclass(frozen=True, slots=True)
class Bytes:
    """The one thing rows ask of a tokenizer."""

    def piece(self, token: int, *, special: bool) -> bytes:
        return WORDS[token].encode()


@dataclass(slots=True)
class StandIn:
    """:class:`~preftilt.engines.llamacpp.bindings.LlamaContext` in plain Python."""

    settings: ContextSettings
    model: Vocabulary = field(default_factory=Vocabulary)
    sequences: dict[int, list[int]] = field(default_factory=dict)
    holders: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    broken: bool = False
    closed: bool = False

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.sequences.get(target), "the target is not empty"
        assert length <= len(self.sequences[source]), "there is not so much to copy"
        self.sequences[target] = self.sequences[source][:length]
        for cell in self.sequences[target]:
            self.holders[cell] += 1

    def remove(self, sequence: int) -> None:
        for cell in self.sequences.pop(sequence, []):
            self.holders[cell] -= 1
            if not self.holders[cell]:
                del self.holders[cell], self.tokens[cell]

    def clear(self) -> None:
        for sequence in [*self.sequences]:
            self.remove(sequence)

    def forward(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        wanted: Sequence[bool],
    ) -> np.ndarray:
        assert not self.closed, "the context is closed"
        assert 0 < len(tokens) <= self.settings.batch, "the batch is too large"
        assert sum(wanted) <= self.settings.outputs, "too many outputs"
        if self.broken:
            raise RuntimeError("out of memory")
        logits: list[np.ndarray] = []
        for token, position, sequence, want in zip(
            tokens, positions, sequences, wanted, strict=True
        ):
            assert 0 <= sequence < self.settings.sequences, "the id is out of range"
            cells = self.sequences.setdefault(sequence, [])
            assert position == len(cells), "the position does not follow"
            self._append(cells, token)
            if want:
                logits.append(whole_context(tuple(self.tokens[cell] for cell in cells)))
        return np.array(logits, np.float32).reshape(-1, len(WORDS))

    def close(self) -> None:
        self.closed = True

    def _append(self, cells: list[int], token: int) -> None:
        cell = next(one for one in range(len(self.tokens) + 1) if one not in self.tokens)
        assert cell < self.settings.cells, "no cell is free"
        self.tokens[cell], self.holders[cell] = token, 1
        cells.append(cell)


def scheduler(
    *,
    cells: int = 4096,
    sequences: int = 64,
    batch: int = 64,
    outputs: int = 32,
    max_rows: int = 16,
    kept: int | None = None,
) -> LlamaCppScheduler:
    """A scheduler over the stand-in; sizes as small as a test wants them."""
    context: Any = StandIn(
        ContextSettings(cells=cells, sequences=sequences, batch=batch, outputs=outputs, threads=1)
    )
    limits = LlamaCppLimits(
        max_rows=max_rows,
        context=CONTEXT,
        cells=cells,
        cached_cells=cells // 2 if kept is None else kept,
    )
    tokenizer: Any = Bytes()
    ending = StopCriteria(frozenset({0}), tokenizer)
    return LlamaCppScheduler(context, ending, limits, np.empty(0, np.int64))


def engine(**sizes: Any) -> LlamaCppEngine:
    """An engine over the stand-in; sizes as in :func:`scheduler`."""
    capabilities = Capabilities(
        max_context=CONTEXT,
        eos=frozenset({0}),
        turn_end=0,
        sampler_logprobs=True,
        keyed_streams=True,
        guides=sizes.get("max_rows", 2) > 1,
    )
    info = EngineInfo(
        name="llamacpp:stand-in",
        model="stand-in",
        capabilities=capabilities,
        tokenizer=ToyTokenizer(),
    )
    agreement = Agreement(0.0, 0.0, quantised=False)
    return LlamaCppEngine(info, scheduler(**sizes), agreement)


def scheduler_of(engine: LlamaCppEngine) -> LlamaCppScheduler:
    """The one that the engine's thread runs."""
    running = engine._worker._scheduler
    assert isinstance(running, LlamaCppScheduler)
    return running


async def settled(engine: LlamaCppEngine) -> None:
    """Wait until the engine's thread has nothing to do."""
    while not scheduler_of(engine).idle:
        await asyncio.sleep(0.001)
