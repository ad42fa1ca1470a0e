"""Opens a model: loads it, measures which attention and which shortcuts are exact for it, starts its worker."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import transformers

from preftilt.engines.base import Capabilities, EngineInfo, SampleRequest, ScoreRequest
from preftilt.engines.chat_template import HfChatTokenizer, open_chat
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions, Switch, refuse_others
from preftilt.engines.transformers import probe
from preftilt.engines.transformers.device import on_cpu
from preftilt.engines.transformers.engine import TransformersEngine
from preftilt.engines.transformers.jobs import Job, draw_job, score_job
from preftilt.engines.transformers.joined_layers import joined_linears
from preftilt.engines.transformers.linears import CpuLinear, choose_kernels, patch_linears
from preftilt.engines.transformers.loading import (
    LoadedModel,
    context_of,
    find_model,
    load_model,
    load_processor,
    load_tokenizer,
)
from preftilt.engines.transformers.runner import ModelRunner
from preftilt.engines.transformers.running_batch import RowLifecycle
from preftilt.engines.transformers.scheduler import TransformersLimits, TransformersScheduler
from preftilt.engines.vocabulary import Vocabulary, end_ids, known_ids
from preftilt.engines.worker import in_own_thread
from preftilt.errors import BadInput
from preftilt.types import Completion, Sampling, Stream, Tokens

if TYPE_CHECKING:
    from preftilt.engines.transformers.arm_loading import ArmSetup
    from preftilt.engines.transformers.expanded import ExpandedPath
    from preftilt.engines.transformers.image_prompts import ImageTokenizer

LOG = logging.getLogger("preftilt.engines.transformers")

GIB = 1 << 30

TRIAL = 16
"""Tokens of the responses that are drawn for measurements at opening."""

ROUNDED_RMS = 0.004
"""Root-mean-square gap between a sampled token's log-prob and its score up to which the first stands in for the
second in 16-bit models: over 128 tokens at λ = 20 it moves a score by 20 · 0.004 · √128 < 1 nat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersTuning:
    """Memory settings of the embedded engine; the defaults suit most machines.

    attention: ``expanded`` forces the slow path that works for every architecture. row_bytes: bound on the key/value
    cache of running rows; cache_bytes: on the prefix cache; prefill_tokens, score_tokens: on one forward.
    """

    attention: Literal["auto", "expanded"] = "auto"
    row_bytes: int = 4 * GIB
    cache_bytes: int = 2 * GIB
    prefill_tokens: int = 2048
    score_tokens: int = 2048


HONOURED = CHAT_OPTIONS | {
    "dtype",
    "device",
    "trust_remote_code",
    "allow_pickle",
    "max_rows",
    "sampler_logprobs",
    "arms",
    "arm_base",
}


@in_own_thread
def open_transformers(
    model: str, options: EngineOptions | None = None, tuning: TransformersTuning | None = None
) -> TransformersEngine:
    """Open a causal language model by hub id, path (of a GGUF file, too: it is converted) or short name.

    Raises :class:`~preftilt.errors.UnknownModel`, :class:`~preftilt.errors.NoChatTemplate` for a model that has none
    where ``options`` give none, and :class:`~preftilt.errors.BadInput`.
    """
    options, tuning = options or EngineOptions(), tuning or TransformersTuning()
    refuse_others(options, "the embedded engine", HONOURED)
    source = find_model(
        model,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )
    processor = load_processor(source)
    tokenizer = load_tokenizer(source) if processor is None else processor.tokenizer
    content = None
    if processor is not None:
        from preftilt.engines.transformers.image_prompts import content_for

        content = content_for(tokenizer, processor.image_token, options.chat_template)
    chat = open_chat(tokenizer, options, content)
    if processor is not None and options.arms:
        raise BadInput(
            f"{model} sees images, and reward models (--arm) read text alone; leave them out, or use a model of text"
        )
    _ = chat.template  # Raises now, before the weights are read, if there is none.
    arm_setup = None
    if options.arms or options.arm_base is not None:
        from preftilt.engines.transformers.arm_loading import load_arms

        arm_setup = load_arms(options.arms or {}, options.arm_base, source, tokenizer)
    loaded = load_model(source, tokenizer, vision=processor is not None)
    images = None
    if processor is not None:
        from preftilt.engines.transformers.image_prompts import image_tokenizer

        images = image_tokenizer(loaded.model, processor, chat)
    arm_base = None if arm_setup is None else arm_setup.model
    contexts = [context_of(entry.model.config) for entry in (loaded, arm_base) if entry]
    limits = TransformersLimits(
        max_rows=options.max_rows or (64 if loaded.device.type == "cpu" else 256),
        row_bytes=tuning.row_bytes,
        cache_bytes=tuning.cache_bytes,
        prefill_tokens=tuning.prefill_tokens,
        score_tokens=tuning.score_tokens,
        context=min(contexts),
    )
    return assemble(
        loaded, chat, limits, model, options.sampler_logprobs, tuning.attention, arm_setup, images
    )


@in_own_thread
@torch.inference_mode()
def assemble(
    loaded: LoadedModel,
    chat: HfChatTokenizer,
    limits: TransformersLimits,
    label: str,
    sampler_logprobs: Switch,
    attention: Literal["auto", "expanded"],
    arm_setup: ArmSetup | None = None,
    images: ImageTokenizer | None = None,
) -> TransformersEngine:
    """An engine on a loaded model, which it owns from then on. ``label`` is the model's name in messages."""
    vocabulary, turn_end, runner = _vocabulary(loaded, chat, label, images)
    runners = [runner]
    if arm_setup is not None:
        from preftilt.engines.transformers.arm_loading import attach_arms

        runners += attach_arms(runner, arm_setup)
    lifecycle = RowLifecycle(runner, vocabulary, limits.context)
    probes = [probe.reference(each) for each in runners]
    image_probe = None
    if images is not None:
        from preftilt.engines.transformers.image_check import probe_image

        image_probe = probe_image(images, runner)
    shared = attention == "auto"
    if shared and (reason := _install(runners, probes)) is not None:
        LOG.warning(
            "%s does not read a prompt once for all its answers, which takes several times as long: %s",
            label,
            reason,
        )
        shared = False
    if shared:
        path: TransformersScheduler | ExpandedPath = TransformersScheduler(
            runner, lifecycle, limits
        )
    else:
        from preftilt.engines.transformers.expanded import ExpandedPath

        path = ExpandedPath(runner, lifecycle, limits)
        for each, check in zip(runners, probes, strict=True):
            _require_exact(ExpandedPath(each, lifecycle, limits), check, label)
    # Installed in float32: both agree with the plain forward.
    exact = shared and loaded.dtype == torch.float32
    trusted = sampler_logprobs == "on" or (
        sampler_logprobs == "auto" and (exact or _sampler_agrees(path, loaded.dtype))
    )
    keyed = loaded.dtype == torch.float32 or _sampling_is_batch_invariant(path)
    if images is not None and image_probe is not None:
        from preftilt.engines.transformers.image_check import checked_images

        images = checked_images(images, image_probe, path, label)
    path.forget()
    runner.stats.reset()
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "attention": "shared prefix" if shared else "expanded",
    }
    if shared and runner.attention_kernel:
        versions["attention_kernel"] = runner.attention_kernel
    capabilities = Capabilities(
        max_context=limits.context,
        eos=vocabulary.eos,
        turn_end=turn_end,
        sampler_logprobs=trusted,
        keyed_streams=keyed,
        guides=True,
        guided_logprobs=sampler_logprobs != "off",
        proposes=True,
        normalises=True,
        arms=() if arm_setup is None else arm_setup.known,
        images=images is not None,
    )
    info = EngineInfo(
        name=f"transformers:{label}",
        model=label,
        capabilities=capabilities,
        tokenizer=images or chat,
        versions=versions,
    )
    return TransformersEngine(info, runner, path)


def _install(runners: Sequence[ModelRunner], probes: Sequence[probe.Probe]) -> str | None:
    """Install shared-prefix attention in all models of an engine; if a check fails, undo it and return the reason."""
    for runner, check in zip(runners, probes, strict=True):
        reason = probe.install(runner, check)
        if reason is None and runner.arms is not None:
            reason = probe.reads_by_rows(runner, check)
        if reason is not None:
            for each in runners:
                probe.uninstall(each)
            return reason
    for runner in runners:
        if on_cpu(runner.device):
            runner.kernels = choose_kernels(_linears(runner))
    return None


def _linears(runner: ModelRunner) -> list[CpuLinear]:
    """The linear layers that the fast path computes."""
    head = runner.model.get_output_embeddings()
    patched = joined_linears(runner) or [
        linear
        for linear in patch_linears(runner.language_model)
        if runner.own_logits or head not in linear.owners
    ]
    if runner.own_logits or not isinstance(runner.head, CpuLinear):
        return patched
    return [*patched, runner.head]


def _vocabulary(
    loaded: LoadedModel, chat: HfChatTokenizer, label: str, images: ImageTokenizer | None
) -> tuple[Vocabulary, int, ModelRunner]:
    rows = loaded.model.get_output_embeddings().weight.shape[0]
    size, holes = known_ids(loaded.tokenizer, rows)
    eos, turn_end = end_ids(loaded.model, loaded.tokenizer, chat.template_or_none)
    if turn_end is None:
        raise BadInput(
            f"{label} names no token that ends a response; set eos_token_id in its generation_config.json"
        )
    vocabulary = Vocabulary(size, holes, eos, chat)
    unknown_ids = torch.tensor(holes, device=loaded.device) if holes else None
    embedder = None if images is None else images.embedder
    runner = ModelRunner(loaded.model, vocabulary=size, holes=unknown_ids, embedder=embedder)
    return vocabulary, turn_end, runner


def _require_exact(path: ExpandedPath, check: probe.Probe, label: str) -> None:
    """Refuse a model whose own forward with a cache does not reproduce the one without."""
    try:
        agrees = path.agrees(check)
    except Exception as error:  # An unknown architecture may raise anything.
        raise BadInput(
            f"{label} cannot be run step by step by preftilt ({error}); use another model"
        ) from error
    if not agrees:
        raise BadInput(
            f"{label} gives other results with a cache than without one; preftilt refuses to guess"
        )


def _sampler_agrees(path: TransformersScheduler | ExpandedPath, dtype: torch.dtype) -> bool:
    """Whether log-probs from sampling equal scores, measured on a few drawn responses."""
    prompt = tuple(range(min(8, path.runner.vocabulary)))
    [drawn] = _draw(path, [_trial_request(prompt, range(4))])
    scores = [
        score_job(ScoreRequest(prompt=prompt, completion=completion.tokens)) for completion in drawn
    ]
    _finish(path, scores)
    pairs = zip(drawn, scores, strict=True)
    gaps = np.concatenate([completion.logprobs - job.future.result() for completion, job in pairs])
    if dtype == torch.float32:
        return bool(np.abs(gaps).max() <= probe.AGREE)
    return bool(np.sqrt(np.mean(gaps**2)) <= ROUNDED_RMS)


def _sampling_is_batch_invariant(path: TransformersScheduler | ExpandedPath) -> bool:
    """Whether sampling in 16 bits is batch-invariant, measured by log-probs.

    Responses are drawn in a large batch, alone, and in two chunks. Tokens rarely differ where log-probs do, so
    log-probs are compared. Float32 has been checked against the model's own forward already (:func:`~.probe.install`).
    """
    vocabulary = path.runner.vocabulary
    prompt, other = (
        tuple(range(min(8, vocabulary))),
        tuple(token % vocabulary for token in range(40)),
    )
    _, batch = _draw(path, [_trial_request(other, range(7)), _trial_request(prompt, range(17))])
    compared = 0
    for slot, batched in enumerate(batch):
        trial = _trial_request(prompt, [slot])
        [[alone]] = _draw(path, [trial])
        half = len(alone.tokens) // 2
        rest = replace(trial, prefix=alone.tokens[:half], max_tokens=TRIAL - half)
        [[later]] = _draw(path, [rest])
        if not (_equal_from(alone, batched, 0) and _equal_from(alone, later, half)):
            return False
        compared += len(alone.tokens)
        if compared >= 2 * TRIAL:
            break
    return True


def _equal_from(whole: Completion, other: Completion, start: int) -> bool:
    """Whether ``other`` equals ``whole`` from token ``start`` on, log-probs included."""
    gaps = (
        np.abs(whole.logprobs[start:] - other.logprobs)
        if whole.tokens[start:] == other.tokens
        else None
    )
    return gaps is not None and float(gaps.max(initial=0.0)) <= probe.AGREE


def _trial_request(prompt: Tokens, slots: Iterable[int]) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        slots=tuple(slots),
        stream=Stream(0),
        sampling=Sampling(),
        max_tokens=TRIAL,
    )


def _draw(
    path: TransformersScheduler | ExpandedPath, requests: Sequence[SampleRequest]
) -> list[list[Completion]]:
    jobs = [draw_job(request) for request in requests]
    _finish(path, jobs)
    return [job.future.result() for job in jobs]


def _finish(path: TransformersScheduler | ExpandedPath, jobs: Sequence[Job]) -> None:
    path.add(jobs)
    while not path.idle:
        path.step()
