"""llama.cpp through the low-level bindings of llama-cpp-python: a model, a context, and one batch at a time.

Nothing else in this package calls the bindings. Handles are freed with the objects that own them.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.errors import EngineError, MissingPackage

CACHE_TYPES = {"float32": 0, "float16": 1}
"""GGML's type numbers of keys and values."""

_WARNINGS: deque[str] = deque(maxlen=20)
"""llama.cpp's last warnings and errors, which it would print to standard error otherwise."""

_WARNING, _ERROR = 2, 3


@lru_cache(maxsize=1)
def llama_bindings() -> Any:
    """The bindings, with their log redirected to :func:`last_warning` for the whole process.

    Raises :class:`~preftilt.errors.MissingPackage` where they are not installed or do not load.
    """
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingPackage(
            f'running a GGUF file needs llama-cpp-python ({error}): pip install "preftilt[llamacpp]"'
        ) from error
    bindings: Any = llama_cpp
    bindings.llama_log_set(_log_callback(bindings), ctypes.c_void_p(0))
    bindings.llama_backend_init()
    return bindings


@lru_cache(maxsize=1)
def _log_callback(bindings: Any) -> Any:
    """Cached for ever: llama.cpp calls it as long as the process lives."""

    @bindings.llama_log_callback
    def note(level: int, text: bytes, _: object) -> None:
        said = text.decode("utf-8", "replace").strip()
        if level in (_WARNING, _ERROR) and said:
            _WARNINGS.append(said)

    return note


def last_warning() -> str:
    """llama.cpp's last warning that says more than that it failed."""
    informative = [line for line in _WARNINGS if "failed to load model" not in line] or [*_WARNINGS]
    return informative[-1] if informative else "llama.cpp does not say why"


class LlamaModel:
    """Weights and vocabulary of a GGUF file. ``gpu_layers`` −1 puts all layers on the GPU.

    ``repack`` lets llama.cpp rearrange quantised weights for the processor at hand.

    Raises :class:`~preftilt.errors.EngineError` with llama.cpp's message if the file cannot be loaded.
    """

    def __init__(self, path: str, gpu_layers: int, *, repack: bool = False) -> None:
        self.lib = llama_bindings()
        _WARNINGS.clear()
        settings = self.lib.llama_model_default_params()
        settings.n_gpu_layers = gpu_layers
        settings.use_extra_bufts = repack
        self.handle = self.lib.llama_model_load_from_file(path.encode(), settings)
        if not self.handle:
            raise EngineError(last_warning())
        self._free = weakref.finalize(self, self.lib.llama_model_free, self.handle)
        self.vocab = self.lib.llama_model_get_vocab(self.handle)
        self.size: int = self.lib.llama_vocab_n_tokens(self.vocab)
        self.trained_context: int = self.lib.llama_model_n_ctx_train(self.handle)

    def meta(self, key: str) -> str | None:
        """A value of the file's metadata, as text."""
        buffer = ctypes.create_string_buffer(256)
        length = self.lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    @property
    def chat_template(self) -> str | None:
        """The template in the metadata, in Jinja."""
        template = self.lib.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8") if template else None

    @property
    def is_plain_decoder(self) -> bool:
        """Whether it is a plain causal decoder, so that any prefix of a sequence can be shared and continued."""
        other_kinds = ("has_encoder", "is_recurrent", "is_hybrid", "is_diffusion")
        return not any(
            getattr(self.lib, f"llama_model_{name}")(self.handle) for name in other_kinds
        )

    @property
    def description(self) -> str:
        """Architecture, size and type of the weights, in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(128)
        self.lib.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def is_quantised(self) -> bool:
        """Whether the weights have fewer than 16 bits, so that activations are rounded to 8 beside them."""
        return not {"F32", "F16", "BF16"} & set(self.description.split())

    def cell_bytes(self, dtype: str) -> int:
        """Bytes of the keys and values of one token."""
        heads = self.lib.llama_model_n_head(self.handle)
        width = self.lib.llama_model_n_embd(self.handle) // max(1, heads)
        kind = self.meta("general.architecture")
        sizes = [self.meta(f"{kind}.attention.{name}_length") for name in ("key", "value")]
        total = sum(int(size) if size else width for size in sizes)
        layers, kv_heads = (
            self.lib.llama_model_n_layer(self.handle),
            self.lib.llama_model_n_head_kv(self.handle),
        )
        return max(1, layers * kv_heads * total * np.dtype(dtype).itemsize)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSettings:
    """Settings of a context.

    cells: size of the key/value cache in tokens, for all sequences together. sequences: number of sequence ids. batch:
    tokens of one call. outputs: tokens with logits in one call. dtype: of keys and values (:data:`CACHE_TYPES`).
    flash: flash attention, which on the CPU is faster and rounds keys and values to 16 bits.
    """

    cells: int
    sequences: int
    batch: int
    outputs: int
    threads: int
    dtype: str = "float32"
    flash: bool = False


class LlamaContext:
    """A key/value cache of many sequences, and the forward pass over them.

    Raises :class:`~preftilt.errors.EngineError` with llama.cpp's message if it cannot be created (mostly for lack of
    memory).
    """

    def __init__(self, model: LlamaModel, settings: ContextSettings) -> None:
        self.model = model
        self.settings = settings
        self._lib = lib = model.lib
        _WARNINGS.clear()
        self._handle = lib.llama_init_from_model(model.handle, _parameters(lib, settings))
        if not self._handle:
            raise EngineError(last_warning())
        self._memory = lib.llama_get_memory(self._handle)
        self._free = weakref.finalize(self, lib.llama_free, self._handle)
        self._batch = _Batch(lib, settings.batch)

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the first ``length`` tokens of ``source`` with the new sequence ``target``; nothing is computed."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def remove(self, sequence: int) -> None:
        """Remove a sequence; cells that others share stay."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear(self) -> None:
        """Remove every sequence."""
        self._lib.llama_memory_clear(self._memory, False)

    def forward(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        wanted: Sequence[bool],
    ) -> Float[np.ndarray, "M V"]:
        """Append tokens to their sequences; float32 logits after the ``wanted`` ones, in order.

        The array is a view that the next call overwrites. Raises :class:`~preftilt.errors.EngineError`, after which
        the context must be cleared.
        """
        _WARNINGS.clear()
        status = self._lib.llama_decode(
            self._handle, self._batch.filled(tokens, positions, sequences, wanted)
        )
        if status:
            raise EngineError(f"llama.cpp refused a batch with status {status} ({last_warning()})")
        count = sum(wanted)
        if not count:
            return np.empty((0, self.model.size), np.float32)
        pointer = self._lib.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(pointer, (count, self.model.size))

    def close(self) -> None:
        """Free the memory; the context cannot be used any more."""
        self._free()


def _parameters(lib: Any, settings: ContextSettings) -> Any:
    made = lib.llama_context_default_params()
    made.n_ctx = settings.cells
    made.n_seq_max = settings.sequences
    made.n_batch = settings.batch
    made.n_ubatch = min(settings.batch, 512)
    made.n_outputs_max = max(settings.outputs, settings.sequences)
    made.n_threads = made.n_threads_batch = settings.threads
    made.type_k = made.type_v = CACHE_TYPES[settings.dtype]
    made.flash_attn_type = int(settings.flash)
    made.kv_unified = True
    # Keep cells outside sliding windows (they are masked), so that a prefix can be shared wherever it ends.
    made.swa_full = True
    return made


class _Batch:
    """A ``llama_batch`` over numpy arrays, so that filling it takes four copies."""

    def __init__(self, lib: Any, size: int) -> None:
        self._tokens, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._sequences, self._counts = np.zeros(size, np.int32), np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        addresses = self._sequences.ctypes.data + self._sequences.itemsize * np.arange(
            size, dtype=np.uint64
        )
        self._addresses = addresses.astype(np.uintp)
        integers = ctypes.POINTER(ctypes.c_int32)
        self._struct = lib.llama_batch(
            token=self._tokens.ctypes.data_as(integers),
            pos=self._positions.ctypes.data_as(integers),
            n_seq_id=self._counts.ctypes.data_as(integers),
            seq_id=self._addresses.ctypes.data_as(ctypes.POINTER(integers)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def filled(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        wanted: Sequence[bool],
    ) -> Any:
        count = len(tokens)
        self._tokens[:count], self._positions[:count] = tokens, positions
        self._sequences[:count], self._wanted[:count] = sequences, wanted
        self._struct.n_tokens = count
        return self._struct
