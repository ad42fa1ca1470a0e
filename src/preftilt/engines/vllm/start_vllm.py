"""Starts vLLM in this process, and measures whether its log-probs and its prefix cache can be used."""

# pyright: reportMissingImports=false
# vLLM is not part of the environment that types are checked in.

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import torch
import transformers
import vllm
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from preftilt.engines.base import (
    Capabilities,
    EngineInfo,
    Fact,
    GuidedView,
    GuideRequest,
    SampleRequest,
)
from preftilt.engines.lockstep.groups import GroupDrawing
from preftilt.engines.lockstep.limits import GroupLimits, unsupported
from preftilt.engines.lockstep.processor import GroupProcessor
from preftilt.engines.models import model_folder
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions, Switch, refuse_others
from preftilt.engines.tokenizer import ModelTokenizer, open_tokenizer
from preftilt.engines.transformers.open_model import ROUNDED_RMS
from preftilt.engines.transformers.probe import AGREE, tolerance
from preftilt.engines.vllm.engine import VllmEngine
from preftilt.engines.vllm.sequences import SampleSequence, ScoreSequence, VllmSequence
from preftilt.engines.vllm.worker import Submits, VllmWorker
from preftilt.engines.vocabulary import Vocabulary
from preftilt.errors import BadInput, first_line
from preftilt.types import Sampling, Stream, Tokens

HONOURED = CHAT_OPTIONS | {
    "tokenizer",
    "dtype",
    "trust_remote_code",
    "allow_pickle",
    "max_rows",
    "max_context",
    "sampler_logprobs",
}

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
"""vLLM's settings that can only be environment variables; the user's own values win: one process, no usage statistics,
only errors in the log, the model runner that the logits processor is one of."""

CPU_CACHE = 2 << 30
"""Bytes of key/value cache on the CPU, where vLLM would take nearly all memory; VLLM_CPU_KVCACHE_SPACE overrides it."""

ATTEMPTS = 16
"""How often a group may fall out of step while it is measured whether groups step together at all."""

CPU_BLOCK = 32
"""Tokens in a block of the cache on the CPU: the minimum of vLLM's attention there. Prefixes are shared by whole
blocks."""


BESIDE_ADAPTERS = (
    "beside LoRA adapters vLLM's log-probs of given tokens are wrong, or end it (its issues 16668 and 51594): start"
    " vLLM without --enable-lora"
)


def open_vllm(name: str, options: EngineOptions | None = None) -> VllmEngine:
    """Open a causal language model by hub id, path (of a GGUF file, too: it is converted) or short name, in vLLM.

    vLLM chooses the device. Raises :class:`~preftilt.errors.UnknownModel` and
    :class:`~preftilt.errors.BadInput`.
    """
    options = options or EngineOptions()
    if options.adapter is not None:
        raise BadInput(
            "--adapter is not for vllm:, whose log-probs of a prompt cannot be relied on under an adapter; merge"
            f" {options.adapter} into the model and open that one, or leave out vllm: (the embedded engine takes them)"
        )
    refuse_others(options, "vllm", HONOURED)
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    known = open_tokenizer(options.tokenizer or name, options)
    arguments = _arguments(model_folder(name), known.context, options)
    worker = VllmWorker(lambda: _start(arguments))
    try:
        started = worker.started.result()
    except Exception as error:  # vLLM may raise anything.
        raise BadInput(
            f"{name} cannot be opened by vLLM: {first_line(error)}; the embedded engine may (leave out vllm:)"
        ) from error
    try:
        return measure(name, worker, started, known, options.sampler_logprobs)
    except BaseException:
        worker.close()
        raise


def _arguments(folder: str, context: int | None, options: EngineOptions) -> EngineArgs:
    """vLLM needs one token of the context for itself: it draws one even when it only scores."""
    length = options.max_context + 1 if options.max_context else None
    on_cpu = current_platform.is_cpu()
    dtype: Any = ("float32" if on_cpu else "bfloat16") if options.dtype == "auto" else options.dtype
    return EngineArgs(
        model=folder,
        tokenizer=options.tokenizer,
        dtype=dtype,
        seed=0,
        max_model_len=min(length, context) if length and context else length,
        max_num_seqs=options.max_rows,
        trust_remote_code=options.trust_remote_code,
        load_format="auto" if options.allow_pickle else "safetensors",
        enable_prefix_caching=True,
        logprobs_mode="raw_logprobs",
        generation_config="vllm",
        logits_processors=None if _installed() else [GroupProcessor],
        disable_log_stats=True,
        use_tqdm_on_load=False,
        # Compilation for the CPU takes most of a minute and is of no use.
        enforce_eager=on_cpu,
        enable_chunked_prefill=not on_cpu,  # See :func:`_breaks_down_at_seeds`.
        block_size=CPU_BLOCK if on_cpu else None,
        kv_cache_memory_bytes=CPU_CACHE if on_cpu else None,
    )


def _installed() -> bool:
    """Whether vLLM finds the processor by itself, as an entry point of this package."""
    return bool(entry_points(group="vllm.logits_processors", name="preftilt"))


def _start(arguments: EngineArgs) -> LLMEngine:
    config = arguments.create_engine_config()
    return LLMEngine(
        vllm_config=config,
        executor_class=Executor.get_class(config),
        log_stats=False,
        multiprocess_mode=False,
    )


def _breaks_down_at_seeds(config: Any) -> bool:
    """Whether a prompt that is spread over two steps ends vLLM if its request has a seed: so does vLLM 0.32 on a CPU,
    where no random generator can be turned back."""
    on_cpu = config.device_config.device_type == "cpu"
    return on_cpu and bool(config.scheduler_config.enable_chunked_prefill)


NO_SEEDS = Fact(
    "seeds",
    "left out",
    "vLLM on a CPU ends at a seed where it divides a prompt, so equal requests draw other answers; start it with"
    " --no-enable-chunked-prefill",
)


def measure(
    name: str, worker: Submits, started: Any, known: ModelTokenizer, trust_sampler: Switch
) -> VllmEngine:
    """Measure a ``started`` vLLM (``LLMEngine`` or ``AsyncLLM``), and build the engine."""
    model, vocabulary = started.model_config, known.vocabulary
    context = model.max_model_len - 1
    block_size = started.vllm_config.cache_config.block_size
    scores = started.vllm_config.lora_config is None
    shared = scores and _shares_prefixes(worker, vocabulary.size, block_size, context, model.dtype)
    seeded = not _breaks_down_at_seeds(started.vllm_config)
    trusted = trust_sampler == "on" or (
        trust_sampler == "auto"
        and scores
        and _sampler_agrees(worker, vocabulary, model.dtype, seeded=seeded)
    )
    guides = unsupported(started.vllm_config) is None and _steps_together(worker, vocabulary)
    capabilities = Capabilities(
        max_context=context,
        eos=vocabulary.eos,
        turn_end=known.turn_end,
        sampler_logprobs=trusted,
        keyed_streams=False,
        guides=guides,
        guided_logprobs=guides and trust_sampler != "off",
        unscored="" if scores else BESIDE_ADAPTERS,
    )
    versions = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(started.vllm_config.device_config.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "scoring": "shared prefix" if shared else "plain",
    }
    info = EngineInfo(
        name=f"vllm:{name}",
        model=name,
        capabilities=capabilities,
        tokenizer=known.chat,
        versions=versions,
        facts=() if seeded else (NO_SEEDS,),
    )
    return VllmEngine(
        info,
        worker,
        vocabulary,
        block_size if shared else None,
        GroupLimits.of(started.vllm_config) if guides else None,
        seeded=seeded,
    )


def _shares_prefixes(
    worker: Submits, vocabulary: int, block_size: int, context: int, dtype: torch.dtype
) -> bool:
    """Whether log-probs with the prompt's prefix from the cache equal those without.

    Upstream does not promise this (vllm issue 42019), so it is measured on the model and the version at hand.
    """
    prompt = _test_tokens(2 * block_size + 5, vocabulary, 3)
    responses = [_test_tokens(6, vocabulary, step) for step in (5, 7, 11)]
    if len(prompt) + 6 > context:
        return False
    rows: dict[bool, list[Any]] = {}
    for shared in (False, True):
        readings = [ScoreSequence(prompt, response, shared) for response in responses]
        rows[shared] = _run(worker, readings)
        if shared and not all(reading.cached >= block_size for reading in readings):
            return False
    return all(
        isinstance(got, np.ndarray) and np.abs(got - want).max() <= tolerance(dtype)
        for got, want in zip(rows[True], rows[False], strict=True)
    )


def _sampler_agrees(
    worker: Submits, vocabulary: Vocabulary, dtype: torch.dtype, *, seeded: bool
) -> bool:
    """Whether log-probs from sampling equal scores, measured on a few responses drawn away from temperature 1."""
    request = SampleRequest(
        prompt=_test_tokens(8, vocabulary.size, 1),
        slots=(0, 1, 2, 3),
        stream=Stream(0),
        sampling=Sampling(temperature=0.8),
        max_tokens=16,
    )
    drawn = _run(
        worker, [SampleSequence(request, slot, vocabulary, seeded) for slot in request.slots]
    )
    rows = _run(
        worker,
        [ScoreSequence(request.prompt, completion.tokens, shared=False) for completion in drawn],
    )
    gaps = np.concatenate(
        [completion.logprobs - row for completion, row in zip(drawn, rows, strict=True)]
    )
    if dtype == torch.float32:
        return bool(np.abs(gaps).max() <= AGREE)
    return bool(np.sqrt(np.mean(gaps**2)) <= ROUNDED_RMS)


def _steps_together(worker: Submits, vocabulary: Vocabulary) -> bool:
    """Whether groups draw as one, measured: a member alone must be refused, and two must draw the same tokens.

    They are drawn rather than greedy, so that what draws has been compiled before the first request.
    """
    prompts = [_test_tokens(8, vocabulary.size, step) for step in (1, 3)]
    views = (GuidedView(prompts[0], -1.0), GuidedView(prompts[1], 2.0))
    request = GuideRequest(
        views=views,
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(),
        max_tokens=ATTEMPTS,
    )
    drawing = GroupDrawing(request, 0, vocabulary, ATTEMPTS)
    attempt, members = drawing.members(ATTEMPTS)
    _run(worker, members[:1])
    if attempt.drawn[0] != list(attempt.refused[:1]):
        return False
    for _ in range(ATTEMPTS):
        attempt, members = drawing.members(1)
        _run(worker, members)
        if attempt.counted:
            return True
    return False


def _test_tokens(length: int, vocabulary: int, step: int) -> Tokens:
    return tuple((step * i + step) % vocabulary for i in range(length))


def _run(worker: Submits, sequences: Iterable[VllmSequence]) -> list[Any]:
    submitted = list(sequences)
    worker.submit(submitted)
    return [sequence.future.result() for sequence in submitted]
