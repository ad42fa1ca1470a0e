"""Opens a GGUF file: refuses what cannot work, loads it, sizes its cache, and measures whether it is exact."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from preftilt.engines.base import Capabilities, EngineInfo
from preftilt.engines.chat_template import HfChatTokenizer, open_chat
from preftilt.engines.llamacpp import probe
from preftilt.engines.llamacpp.batch_tasks import StopCriteria
from preftilt.engines.llamacpp.bindings import (
    CACHE_TYPES,
    ContextSettings,
    LlamaContext,
    LlamaModel,
    llama_bindings,
)
from preftilt.engines.llamacpp.engine import LlamaCppEngine
from preftilt.engines.llamacpp.scheduler import LlamaCppLimits, LlamaCppScheduler, LlamaCppStats
from preftilt.engines.llamacpp.vocabulary import GgufTokenizer
from preftilt.engines.models import gguf_file
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions, Switch, refuse_others
from preftilt.errors import BadInput, EngineError, UnknownModel

HONOURED = CHAT_OPTIONS | {
    "dtype",
    "device",
    "max_rows",
    "max_context",
    "threads",
    "sampler_logprobs",
}

ROWS = 32
"""Rows drawn together unless ``max_rows`` says otherwise."""

RESPONSE = 512
"""Tokens of a usual response: the cache has room for so many per row."""

MOST_SEQUENCES = 256
"""llama.cpp's own bound. Twice as many as rows are the least: of every view a prompt and a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppTuning:
    """Memory settings of the engine; the defaults suit a laptop.

    cache_bytes: the key/value cache, running and cached sequences together. batch: tokens of one call of llama.cpp.
    logits_bytes: bound on the logits of one call. flash: flash attention; None leaves it off for a float32 cache and
    on for a float16 one. repack: let llama.cpp rearrange quantised weights for the processor. That is faster, but those
    kernels may sum in another order when a batch grows; with Q8_0 weights one build of llama-cpp-python 0.3.36
    crashed in them, which cannot be caught.
    """

    cache_bytes: int = 2 << 30
    batch: int = 512
    logits_bytes: int = 128 << 20
    flash: bool | None = None
    repack: bool = False


def open_llamacpp(
    name: str, options: EngineOptions | None = None, tuning: LlamaCppTuning | None = None
) -> LlamaCppEngine:
    """Open the GGUF file ``name``, the only one in a folder ``name``, or the one that a short name means.

    Its weights keep the type they have in the file. ``dtype`` is that of keys and values: ``auto`` is float32;
    float16 takes half the memory and allows flash attention; the loss in accuracy is measured.

    Raises :class:`~preftilt.errors.UnknownModel`, :class:`~preftilt.errors.BadInput` and
    :class:`~preftilt.errors.MissingPackage`.
    """
    options, tuning = options or EngineOptions(), tuning or LlamaCppTuning()
    refuse_others(options, "llama.cpp", HONOURED, reason="tokenizer and weights are in the file")
    dtype = _cache_type(options.dtype)
    path = _file(name)
    model = _load(name, str(path), options.device, tuning)
    gguf = GgufTokenizer(model, name)
    chat = open_chat(gguf, options)
    stop, turn_end = _stop_criteria(gguf, chat, name)
    settings, limits = _sizes(name, model, options, tuning, dtype)
    try:
        context = LlamaContext(model, settings)
    except EngineError as error:
        raise BadInput(
            f"there is not enough memory for {name} with {settings.cells} tokens of context in all ({error});"
            " lower --max-context or --max-rows, or use --dtype float16"
        ) from error
    scheduler = LlamaCppScheduler(context, stop, limits, gguf.unused())
    return _assembled(name, scheduler, chat, turn_end, options.sampler_logprobs)


def _assembled(
    name: str, scheduler: LlamaCppScheduler, chat: HfChatTokenizer, turn_end: int, trusted: Switch
) -> LlamaCppEngine:
    agreement = probe.measure(scheduler)
    scheduler.forget()
    scheduler.stats = LlamaCppStats()
    context = scheduler.context
    capabilities = Capabilities(
        max_context=scheduler.limits.context,
        eos=scheduler.stop.eos,
        turn_end=turn_end,
        sampler_logprobs=agreement.exact if trusted == "auto" else trusted == "on",
        keyed_streams=agreement.exact,
        guides=scheduler.limits.max_rows > 1,
    )
    versions = {
        "llama-cpp-python": llama_bindings().__version__,
        "weights": context.model.description,
        "cache": context.settings.dtype,
        "attention": "flash" if context.settings.flash else "plain",
    }
    info = EngineInfo(
        name=f"llamacpp:{name}",
        model=name,
        capabilities=capabilities,
        tokenizer=chat,
        versions=versions,
    )
    return LlamaCppEngine(info, scheduler, agreement)


def _cache_type(dtype: str) -> str:
    if dtype == "auto":
        return "float32"
    if dtype not in CACHE_TYPES:
        raise BadInput(
            f"--dtype {dtype} is not known to the llama.cpp engine, where it is the type of keys and values;"
            f" use auto or {' or '.join(CACHE_TYPES)}"
        )
    return dtype


def _file(name: str) -> Path:
    """The GGUF file of that name."""
    path = gguf_file(name)
    if path is not None:
        return path
    if Path(name).expanduser().is_dir():
        raise UnknownModel(
            f"{name} holds no GGUF file, or a model of another format; name a GGUF file"
        )
    raise UnknownModel(f"there is no file {name}; give the path of a GGUF file")


def _load(name: str, path: str, device: str, tuning: LlamaCppTuning) -> LlamaModel:
    """Load the model, and refuse one that cannot sample and score."""
    layers = _gpu_layers(device)
    try:
        model = LlamaModel(path, layers, repack=tuning.repack)
    except EngineError as error:
        raise BadInput(
            f"llama.cpp cannot load {name}: {error}; the file may be damaged, cut off on its way, or newer than"
            f" llama-cpp-python {llama_bindings().__version__}"
        ) from error
    if not model.is_plain_decoder or not model.size:
        raise BadInput(
            f"{name} is not a plain causal language model (it is recurrent, encodes first, or has no vocabulary),"
            " so its prompts cannot be shared; use another model"
        )
    return model


def _gpu_layers(device: str) -> int:
    if device == "cpu":
        return 0
    has_gpu = llama_bindings().llama_supports_gpu_offload()
    if device == "auto" or (device == "cuda" and has_gpu):
        return -1 if has_gpu else 0
    raise BadInput(
        f"--device {device} cannot be used by this build of llama.cpp; use auto or cpu, or build llama-cpp-python"
        " for your GPU"
    )


def _stop_criteria(
    gguf: GgufTokenizer, chat: HfChatTokenizer, name: str
) -> tuple[StopCriteria, int]:
    eos, turn_end = gguf.end_tokens(chat.template_or_none)
    if turn_end is None:
        raise BadInput(
            f"{name} names no token that ends a response; set tokenizer.ggml.eos_token_id in the file"
        )
    return StopCriteria(eos, gguf), turn_end


def _sizes(
    name: str, model: LlamaModel, options: EngineOptions, tuning: LlamaCppTuning, dtype: str
) -> tuple[ContextSettings, LlamaCppLimits]:
    """Cells for two full contexts and a usual response per row, as far as memory allows."""
    rows = min(options.max_rows or ROWS, MOST_SEQUENCES // 2)
    wanted = options.max_context or model.trained_context
    if wanted > model.trained_context:
        raise BadInput(
            f"{name} was trained on {model.trained_context} tokens of context; --max-context {wanted} is more"
        )
    affordable = tuning.cache_bytes // model.cell_bytes(dtype)
    # An explicitly requested context gets its cells, whatever memory it takes.
    minimum = wanted if options.max_context else 0
    cells = max(minimum, min(2 * wanted + rows * RESPONSE, affordable), 256)
    context = min(wanted, cells)
    batch = min(max(tuning.batch, rows), cells)
    outputs = max(rows, tuning.logits_bytes // (4 * model.size))
    settings = ContextSettings(
        cells=cells,
        sequences=min(MOST_SEQUENCES, 4 * rows + 16),
        batch=batch,
        outputs=min(outputs, batch),
        threads=options.threads or _threads(),
        dtype=dtype,
        flash=dtype != "float32" if tuning.flash is None else tuning.flash,
    )
    limits = LlamaCppLimits(max_rows=rows, context=context, cells=cells, cached_cells=cells // 2)
    return settings, limits


def _threads() -> int:
    """As in torch: OMP_NUM_THREADS, or the number of CPUs that the process may use."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdecimal() and int(setting):
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
