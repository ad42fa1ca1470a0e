"""Checks at opening, on a few random tokens.

The fast path replaces a model's attention and output head; whether it is exact for this model is measured against the
model's own plain forward, not guessed from its name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from preftilt.engines.transformers.attention import ATTENTION, recorded_layers, register
from preftilt.engines.transformers.decode import DecodePlan, RowPosition, TailBuffers
from preftilt.engines.transformers.device import on_cpu
from preftilt.engines.transformers.extend import ExtendPlan, ExtendSegment
from preftilt.engines.transformers.fused import fused_kernels
from preftilt.engines.transformers.joined_layers import join_layers, separate_layers
from preftilt.engines.transformers.prefix_cache import CachedPrompt
from preftilt.engines.transformers.runner import ModelRunner

AGREE = 1e-4
"""Largest difference in log-prob (nats) at which two float32 paths are the same."""

TOKENS_AGREE_ROUNDED = 0.25
"""The same for tokens in 16-bit models, whose plain forward rounds its logits to steps of 1/8 between 16 and 32."""

AGREE_ROUNDED = 0.03
"""Largest divergence KL(plain ‖ path) of a next-token distribution (nats) at which two 16-bit paths are the same.

Rounding moves the log-probs of tokens that are never drawn by half a nat and more, and what moves grows with depth and
vocabulary; the divergence weighs by probability. SmolLM2 in bfloat16 (30 layers, a vocabulary of 49,152) is at 0.0055.
"""

WAYS = ((True, False), (False, False), (False, True))
"""Whether layers are joined, and whether logits are the model's own: what is tried in turn."""

PROMPT, RESPONSE = 21, 6
"""Tokens of the probe; the prompt is read in two unequal pieces, so that segments follow a stored cache."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The probe's tokens [27], and log-probs [27, V] of the next token by the model's plain forward."""

    tokens: Tensor
    reference: Tensor


def reference(runner: ModelRunner) -> Probe:
    """Plain forward with transformers' eager attention, the only one that implements every feature of a model.

    (The fused ones ignore a cap on attention scores, for instance.) The model keeps eager attention, where it can be
    set.
    """
    if runner.language_model._can_set_attn_implementation():
        runner.language_model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(20260630)
    known = torch.ones(runner.vocabulary, dtype=torch.bool)
    if runner.holes is not None:
        known[runner.holes.cpu()] = False
    ids = known.nonzero()[:, 0]
    chosen = torch.randint(0, len(ids), (PROMPT + RESPONSE,), generator=generator)
    tokens = ids[chosen].to(runner.device)
    logits = runner.model(input_ids=tokens[None], use_cache=False).logits[0]
    return Probe(tokens, torch.log_softmax(runner.to_float32(logits), dim=-1))


def gap(logits: Tensor, reference: Tensor) -> float:
    """Largest difference in log-prob, over the known ids (the others are −inf on both sides)."""
    exists = reference.isfinite()
    return float((torch.log_softmax(logits, dim=-1) - reference)[exists].abs().max())


def tolerance(dtype: torch.dtype) -> float:
    """Largest difference (nats) between log-probs of tokens at which two paths agree."""
    return AGREE if dtype in (torch.float32, torch.float64) else TOKENS_AGREE_ROUNDED


def divergence(logits: Tensor, reference: Tensor) -> float:
    """Largest KL(reference ‖ logits) over the positions (nats), over the known ids."""
    exists = reference.isfinite()
    lost = torch.where(exists, reference - torch.log_softmax(logits, dim=-1), 0.0)
    return float((reference.exp() * lost).sum(dim=-1).max())


def same(logits: Tensor, reference: Tensor, dtype: torch.dtype) -> bool:
    """Whether a path's ``logits`` agree with the plain ``reference`` (log-probs), up to rounding in ``dtype``."""
    if dtype in (torch.float32, torch.float64):
        return gap(logits, reference) <= AGREE
    return divergence(logits, reference) <= AGREE_ROUNDED


def install(runner: ModelRunner, probe: Probe) -> str | None:
    """Switch the model to shared-prefix attention: by a fused kernel on a GPU, and with joined layers on a CPU, where
    these agree, too.

    If the check fails, undo it and return the reason.
    """
    model: Any = runner.language_model
    if not model._can_set_attn_implementation():
        return "transformers cannot exchange its attention"
    before = model.config._attn_implementation
    why = "with it, log-probs are not those of the model's own forward"
    try:
        _refuse_unknown_layers(model.config)
        register()
        model.set_attn_implementation(ATTENTION)
    except Exception as error:  # An unknown architecture may raise anything here.
        return _undone(runner, before, _one_line(error))
    for fused, (joined, own) in product((*fused_kernels(runner.device, model.dtype), None), WAYS):
        runner.fused, runner.own_logits = fused, own
        try:
            if (not joined or join_layers(runner)) and _agrees(runner, probe):
                return None
        except Exception as error:  # As above, and a kernel refuses what it is not made for.
            why = _one_line(error)
        separate_layers(runner)
    return _undone(runner, before, why)


def _undone(runner: ModelRunner, before: str, why: str) -> str:
    """Give the model its attention back; returns ``why``."""
    runner.own_logits, runner.fused = False, None
    runner.language_model.set_attn_implementation(before)
    return why


def uninstall(runner: ModelRunner) -> None:
    """Restore transformers' eager attention, as after :func:`reference`."""
    separate_layers(runner)
    runner.own_logits, runner.fused = False, None
    if runner.language_model._can_set_attn_implementation():
        runner.language_model.set_attn_implementation("eager")


def reads_by_rows(runner: ModelRunner, probe: Probe) -> str | None:
    """Check a batch of one token per row, as reward models need; returns the reason if it disagrees, else None."""
    ids = tuple(probe.tokens.tolist())
    plan = ExtendPlan([ExtendSegment(ids, {}, 0, {}, 0)], runner.device, capture=False)
    plan.readers = (None,) * len(ids)
    try:
        logits = runner.logits(plan, plan.tokens)
    except Exception as error:  # As in install.
        return _one_line(error)
    if same(logits, probe.reference, runner.model.dtype):
        return None
    return "read a row a token, log-probs are not those of the model's own forward"


def _one_line(error: Exception) -> str:
    """The exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _refuse_unknown_layers(config: Any) -> None:
    """Refuse kinds of attention that a short probe cannot distinguish from full attention."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or getattr(text, "attention_chunk_size", None):
        raise NotImplementedError(f"layers of kind {kinds}")


def _agrees(runner: ModelRunner, probe: Probe) -> bool:
    """Prefill in two chunks, score the response in one, decode it token by token in two rows; all must agree."""
    with recorded_layers() as layers:
        prompt, first = _prefill(runner, probe.tokens[:PROMPT])
    windows = {window for window, _ in layers}
    runner.attention_kernel = _kernel_facts(runner, layers)
    window = getattr(runner.model.config.get_text_config(), "sliding_window", None)
    kinds = getattr(runner.model.config.get_text_config(), "layer_types", None) or ()
    if window and "sliding_attention" in kinds and window not in windows:
        return False
    scored = _score(runner, prompt, probe.tokens[PROMPT:])
    decoded = _decode(runner, prompt, probe.tokens[PROMPT:])
    expected = probe.reference[PROMPT - 1 :]
    return all(
        same(got, want, runner.model.dtype)
        for got, want in ((first, expected[:1]), (scored, expected[1:]), (decoded, expected[1:]))
    )


def _kernel_facts(runner: ModelRunner, layers: Collection[tuple[int | None, float | None]]) -> str:
    """What computes the attention of layers with these windows and caps on scores; empty if there is no choice."""
    fused = runner.fused
    if fused is None:
        return "" if on_cpu(runner.device) else "explicit"
    facts = [fused.__name__]
    if any(window for window, _ in layers):
        facts.append("explicit in layers with a window, once a text is longer")
    if any(softcap for _, softcap in layers):
        facts.append("explicit in layers with a cap on scores")
    return "; ".join(facts)


def _prefill(runner: ModelRunner, tokens: Tensor) -> tuple[CachedPrompt, Tensor]:
    ids = tuple(tokens.tolist())
    cut = PROMPT // 3
    head = ExtendPlan([ExtendSegment(ids[:cut], {}, 0, {}, 0)], runner.device)
    runner.run(head, head.tokens)
    tail = ExtendPlan([ExtendSegment(ids[cut:], head.layers(0), cut, {}, 0)], runner.device)
    logits = runner.logits(tail, tail.tokens)[-1:]
    layers = {
        i: (
            torch.cat([k, tail.layers(0)[i][0]], dim=1),
            torch.cat([v, tail.layers(0)[i][1]], dim=1),
        )
        for i, (k, v) in head.layers(0).items()
    }
    return CachedPrompt(ids, layers, logits[0]), logits


def _score(runner: ModelRunner, prompt: CachedPrompt, response: Tensor) -> Tensor:
    ids = tuple(response.tolist())
    segments = [
        ExtendSegment(ids[:2], prompt.layers, prompt.length, {}, 0),
        ExtendSegment(ids, prompt.layers, prompt.length, {}, 0),
    ]
    plan = ExtendPlan(segments, runner.device)
    return runner.logits(plan, plan.tokens)[2:]


def _decode(runner: ModelRunner, prompt: CachedPrompt, response: Tensor) -> Tensor:
    """Logits of the second of two rows; the first one has a copy of the prompt in its own tail."""
    buffers = TailBuffers(0)
    buffers.reserve(2, prompt.length + len(response))
    buffers.write(0, 0, prompt.layers)
    rows: list[Tensor] = []
    for length, token in enumerate(response):
        plan = DecodePlan(
            buffers,
            [RowPosition(None, prompt.length + length), RowPosition(prompt, length)],
            runner.device,
        )
        rows.append(runner.logits(plan, token.expand(2))[1])
    return torch.stack(rows)
