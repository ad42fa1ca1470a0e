"""Writes the weights as a transformers Llama: config, generation config, safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tools.train_demo.network import Network, Size
from tools.train_demo.vocabulary import BOS, END, PAD, special_id


def save_model(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """The model in bf16; with the tokenizer's files ``AutoModelForCausalLM`` loads the folder."""
    special = {
        f"{name}_token_id": special_id(tokenizer, token)
        for name, token in (("bos", BOS), ("eos", END), ("pad", PAD))
    }
    _write(folder / "config.json", _config(network.size) | special)
    _write(folder / "generation_config.json", {**special, "do_sample": True})
    state = {
        name: tensor.to(torch.bfloat16).contiguous() for name, tensor in network.state().items()
    }
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _config(size: Size) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "head_dim": size.head,
        "hidden_act": "silu",
        "max_position_embeddings": size.context,
        "rms_norm_eps": size.eps,
        "rope_theta": size.theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": size.theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
    }


def _write(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
