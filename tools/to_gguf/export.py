"""The model itself: llama.cpp's names for the weights, and its order of the rotated rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gguf  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from tools.to_gguf.vocabulary import CannotExport, read_vocabulary

Type = Literal["f32", "f16", "q8_0"]
TYPES: tuple[Type, ...] = ("f32", "f16", "q8_0")

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}


def export_gguf(folder: Path, out: Path, kind: Type = "f32") -> None:
    """Write the model in ``folder`` to ``out``, its weight matrices as ``kind``; vectors stay float32.

    Raises :class:`CannotExport` for what this tool does not write.
    """
    config = _config(folder)
    vocabulary = read_vocabulary(folder, config.vocab_size)
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
    _describe(writer, config, folder.name, kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=config.vocab_size)
    special.add_to_gguf(writer, quiet=True)
    _add_weights(writer, model, config, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in ARCHITECTURES:
        raise CannotExport(
            f"{folder} holds a {config.model_type} model; this tool writes {' and '.join(ARCHITECTURES)},"
            " llama.cpp's convert_hf_to_gguf.py many more"
        )
    rope = config.rope_parameters
    scalable = config.model_type == "llama" and rope["rope_type"] == "llama3"
    if rope["rope_type"] != "default" and not scalable:
        raise CannotExport(
            f"{folder} scales its rotary embedding ({rope['rope_type']}); use llama.cpp's convert_hf_to_gguf.py"
        )
    if getattr(config, "use_sliding_window", False):
        raise CannotExport(
            f"{folder} attends through a sliding window; use llama.cpp's convert_hf_to_gguf.py"
        )
    return config


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _describe(writer: Any, config: Any, name: str, kind: Type) -> None:
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    types = gguf.LlamaFileType
    writer.add_file_type(
        {"f32": types.ALL_F32, "f16": types.MOSTLY_F16, "q8_0": types.MOSTLY_Q8_0}[kind]
    )


def _add_weights(writer: Any, model: Any, config: Any, kind: Type) -> None:
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    weights = model.state_dict()
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    for name, weight in weights.items():
        values = weight.numpy()
        if config.model_type == "llama" and "q_proj" in name:
            values = _interleaved(values, config.num_attention_heads)
        if config.model_type == "llama" and "k_proj" in name:
            values = _interleaved(values, config.num_key_value_heads)
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise CannotExport(f"llama.cpp has no place for the weight {name}; use another model")
        _add(writer, written, values, kind if values.ndim > 1 else "f32")
    if config.rope_parameters["rope_type"] == "llama3":
        factors = _rope_factors(config, model.model.rotary_emb.inv_freq.numpy())
        _add(writer, "rope_freqs.weight", factors, "f32")


def _add(writer: Any, name: str, values: np.ndarray, kind: Type) -> None:
    quantized = gguf.GGMLQuantizationType[kind.upper()]
    data = gguf.quants.quantize(np.ascontiguousarray(values), quantized)
    writer.add_tensor(name, data, raw_dtype=quantized)


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a projection whose heads llama.cpp rotates in neighbouring pairs, where transformers pairs halves."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _rope_factors(config: Any, frequencies: np.ndarray) -> np.ndarray:
    """By what llama.cpp has to divide the plain rotary frequencies to get those that transformers computed."""
    size = _head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, size, 2) / size)
    return (plain / frequencies).astype(np.float32)
