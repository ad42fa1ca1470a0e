"""Sequence-classification reward models (Skywork-Reward and its kind), by transformers in this process.

A response's score is the model's one logit, without a sigmoid: it ranks alike and saturates nowhere. Differences to the
published code of REAR, which posts the base model's prompt as text to the reward model: the conversation is in the
reward model's own template; nothing is truncated (what does not fit has no score); a failure is an error and not −100.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

import torch
import transformers

from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.engines.transformers.loading import (
    LoadedModel,
    context_of,
    find_model,
    load_reward_model,
    load_tokenizer,
)
from preftilt.errors import EngineError
from preftilt.messages import Message
from preftilt.rivals.reward_models import Pair, RewardScores
from preftilt.rivals.template import RewardTemplate

HONOURED = frozenset({"dtype", "device", "trust_remote_code", "allow_pickle", "max_context"})
BATCH_TOKENS = 8192
"""Tokens of one forward at most, padding included; a single longer sequence goes alone."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded model and its template; one thread does all forwards, so callers never wait for torch on their loop.

    padding: the id that the model's config pads with, if it names one.
    """

    loaded: LoadedModel
    template: RewardTemplate
    padding: int | None
    batch_tokens: int = BATCH_TOKENS
    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="preftilt-reward")
    )

    @property
    def name(self) -> str:
        """The model's hub id or path."""
        return self.template.name

    @property
    def versions(self) -> dict[str, str]:
        """Of torch and transformers."""
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def check(self, messages: Sequence[Message]) -> None:
        """See :meth:`RewardTemplate.check`."""
        self.template.check(messages)

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        """Sequences of like length share a forward; a cancelled call ends after the forward that is under way."""
        stopped = Event()
        work = asyncio.get_running_loop().run_in_executor(
            self._worker, self._score, list(pairs), stopped
        )
        try:
            return await work
        except asyncio.CancelledError:
            stopped.set()
            raise

    def close(self) -> None:
        """End the thread; forwards that have not begun are dropped."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _score(self, pairs: list[Pair], stopped: Event) -> RewardScores:
        rows = [self.template.tokens(messages, text) for messages, text in pairs]
        fitting = [i for i, row in enumerate(rows) if len(row) <= self.template.context]
        fitting.sort(key=lambda i: len(rows[i]))
        scores: list[float | None] = [None] * len(rows)
        for batch in _batches([len(rows[i]) for i in fitting], self.batch_tokens):
            if stopped.is_set():
                break
            chosen = [fitting[at] for at in batch]
            for i, score in zip(chosen, self._forward([rows[i] for i in chosen]), strict=True):
                scores[i] = score
        return RewardScores(tuple(scores), len(fitting), sum(len(rows[i]) for i in fitting))

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        """The logit of every row; rows are padded on the right and padding is masked."""
        width, device = max(len(row) for row in rows), self.loaded.device
        pad = self._padding(rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        lengths = torch.tensor([[len(row)] for row in rows], device=device)
        mask = (torch.arange(width, device=device)[None] < lengths).long()
        try:
            scores = self.loaded.model(input_ids=ids, attention_mask=mask).logits[:, 0].double()
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"the reward model {self.name} ran out of memory on {tuple(ids.shape)} tokens; use --dtype bfloat16, a"
                " smaller one, or a server's"
            ) from error
        if not torch.isfinite(scores).all():
            raise EngineError(f"the reward model {self.name} gave a score that is not finite")
        return scores.tolist()

    def _padding(self, rows: list[list[int]]) -> int:
        """The id rows are padded with. transformers takes the last token that is not this id for a sequence's last.

        So it is the model's own, where the config names one (then a single row is read in the same way); otherwise one
        that no row has.
        """
        if self.padding is not None:
            return self.padding
        taken = {token for row in rows for token in row}
        free = next(token for token in range(len(taken) + 1) if token not in taken)
        self.loaded.model.config.get_text_config().pad_token_id = free
        return free


def _batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of rows, given in rising order of length, in batches of at most ``most`` padded tokens."""
    batches: list[list[int]] = []
    for i, length in enumerate(lengths):
        if batches and length * (len(batches[-1]) + 1) <= most:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def open_classifier(name: str, options: EngineOptions) -> Classifier:
    """Load the model; errors as of :func:`~preftilt.engines.transformers.loading.find_model`."""
    refuse_others(options, "a reward model in this process", HONOURED | {"api_key_env"})
    source = find_model(
        name,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )
    tokenizer = load_tokenizer(source)
    loaded = load_reward_model(source, tokenizer)
    context = context_of(loaded.model.config)
    return Classifier(
        loaded,
        RewardTemplate(name, tokenizer, min(context, options.max_context or context)),
        loaded.model.config.get_text_config().pad_token_id,
    )
