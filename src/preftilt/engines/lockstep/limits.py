"""Which vLLM can guide, and which groups fit it: what is refused, and what to do about it; and how many rows of a batch
groups may ask for at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from preftilt.engines.base import GuideRequest
from preftilt.errors import BadInput

NEEDS_V1 = (
    "the logits processor that guides is one of vLLM's model runner V1, and does nothing in V2: set"
    " VLLM_USE_V2_MODEL_RUNNER=0"
)


def unsupported(config: Any) -> str | None:
    """Why a vLLM of this ``VllmConfig`` cannot guide, with a remedy; None if it can, as far as its settings tell."""
    parallel = config.parallel_config
    checks: Sequence[tuple[bool, str]] = (
        (
            config.speculative_config is not None,
            "speculative decoding lets no logits processor in: start vLLM without --speculative-config",
        ),
        (
            parallel.pipeline_parallel_size > 1,
            "pipeline parallelism keeps several batches under way, which a group may be spread over: start vLLM with"
            " --pipeline-parallel-size 1 (--tensor-parallel-size splits a model, too)",
        ),
        (
            parallel.data_parallel_size > 1,
            "with data parallelism the members of a group may come to different copies of the model: start one vLLM a"
            " copy, with --data-parallel-size 1",
        ),
        (
            getattr(config, "watermark_config", None) is not None,
            "watermarking takes vLLM's model runner V2, and the logits processor that guides is one of V1: start vLLM"
            " without --watermark-config",
        ),
        (bool(getattr(config, "use_v2_model_runner", False)), NEEDS_V1),
        (
            config.model_config.logprobs_mode != "raw_logprobs",
            "log-probs must be those of the model itself: start vLLM without --logprobs-mode",
        ),
    )
    return next((remedy for applies, remedy in checks if applies), None)


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What one group may need at most.

    rows: of a batch. step_tokens: that a step reads. block: tokens in a block of the prefix cache; None where no prefix
    is cached, so that all members' tokens are read in one step, again after every interruption. cache_tokens: that the
    key/value cache holds.
    """

    rows: int
    step_tokens: int
    block: int | None
    cache_tokens: int

    @staticmethod
    def of(config: Any) -> GroupLimits:
        """Those of a started vLLM's ``VllmConfig``."""
        scheduler, cache = config.scheduler_config, config.cache_config
        blocks = cache.num_gpu_blocks or 0
        return GroupLimits(
            rows=scheduler.max_num_seqs,
            step_tokens=scheduler.max_num_batched_tokens,
            block=cache.block_size if cache.enable_prefix_caching else None,
            cache_tokens=blocks * cache.block_size,
        )

    def check(self, request: GuideRequest, tokens: int) -> None:
        """Refuse a group that would never be in step; ``tokens`` are those that may be drawn.

        Raises :class:`~preftilt.errors.BadInput`.
        """
        views = len(request.views)
        if views > self.rows:
            raise BadInput(
                f"the answer is guided by {views} views at once, and vLLM has {self.rows} rows: start it with"
                f" --max-num-seqs {views} or more, or state fewer preferences"
            )
        lengths = [len(view.prompt) + len(request.prefix) + tokens for view in request.views]
        read = sum(length if self.block is None else min(length, self.block) for length in lengths)
        if read > self.step_tokens:
            remedy = "" if self.block else "start vLLM with --enable-prefix-caching, or "
            raise BadInput(
                f"the {views} views of a guided answer may need {read} tokens in one step, and vLLM reads"
                f" {self.step_tokens}: {remedy}with --max-num-batched-tokens {read}, or shorten the prompt or"
                " max_tokens"
            )
        if self.cache_tokens and sum(lengths) > self.cache_tokens:
            raise BadInput(
                f"the {views} views of a guided answer may need {sum(lengths)} tokens of key/value cache, and vLLM has"
                f" {self.cache_tokens}: shorten the prompt or max_tokens, or give vLLM more memory"
                " (--gpu-memory-utilization)"
            )


class RowSemaphore:
    """``total`` rows, held by callers on any event loop, first come, first served."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, rows: int) -> AsyncIterator[None]:
        """Hold ``rows`` of them, at most ``total``; waits behind whoever came before."""
        turn: Future[None] = Future()
        with self._lock:
            self._waiting.append((rows, turn))
            self._let_in()
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            self._leave(rows, turn)
            raise
        try:
            yield
        finally:
            self._give_back(rows)

    def _leave(self, rows: int, turn: Future[None]) -> None:
        """Whoever waits no longer: its turn may have come in the same moment."""
        with self._lock:
            if (rows, turn) in self._waiting:
                self._waiting.remove((rows, turn))
                self._let_in()
                return
        self._give_back(rows)

    def _give_back(self, rows: int) -> None:
        with self._lock:
            self._free += rows
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            rows, turn = self._waiting.popleft()
            self._free -= rows
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
