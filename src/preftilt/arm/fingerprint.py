"""Which base a reward model belongs to: the model's shape, some of its weights, its tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from preftilt.arm.spec import ArmSpec
from preftilt.errors import BadInput

SAMPLES = 8
TOLERANCE = 0.05
"""Share of the largest sampled weight by which they may differ: a 16-bit or 8-bit copy of a model is the same model."""


def fingerprint(model: Any) -> str:
    """A description of the base's shape; ``model`` is a transformers causal language model."""
    config = model.config.get_text_config()
    rows = model.get_input_embeddings().weight.shape[0]
    return (
        f"{type(model).__name__}, hidden size {config.hidden_size},"
        f" {config.num_hidden_layers} layers, {rows} tokens"
    )


def weights_sample(model: Any) -> tuple[float, ...]:
    """Numbers evenly spaced over the input embedding, in float32."""
    flat = model.get_input_embeddings().weight.detach().reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, SAMPLES + 2, dtype=torch.float64)[1:-1].long()
    return tuple(flat[places.to(flat.device)].float().tolist())


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of the ids of all tokens; ``tokenizer`` is a ``PreTrainedTokenizerBase``."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    return hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def check_base(spec: ArmSpec, model: Any) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if the reward model was trained on another base than ``model``."""
    shape = fingerprint(model)
    if shape != spec.fingerprint:
        raise BadInput(
            f"the reward model was trained on {spec.base} ({spec.fingerprint}), and this model is another ({shape});"
            " use its own base"
        )
    sample = weights_sample(model)
    allowed = TOLERANCE * max(map(abs, spec.sample))
    if any(abs(a - b) > allowed for a, b in zip(sample, spec.sample, strict=True)):
        raise BadInput(
            f"the reward model was trained on {spec.base}; this model has the same shape and other weights;"
            " use its own base"
        )


def check_tokenizer(spec: ArmSpec, tokenizer: Any) -> None:
    """Raises :class:`~preftilt.errors.BadInput` unless a model with ``tokenizer`` can be guided by the reward model."""
    if tokenizer_hash(tokenizer) != spec.tokenizer:
        raise BadInput(
            f"the reward model was trained with the tokenizer of {spec.base}, and this model has another vocabulary;"
            " its log-probs cannot be added to the model's; use a base of the same family"
        )
