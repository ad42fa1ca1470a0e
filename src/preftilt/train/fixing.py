"""A reward model at one preference vector, as a plain LoRA adapter that any engine with peft's adapters can load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from preftilt.arm.alpha import check_alpha
from preftilt.arm.layers import mixed_down, mixing
from preftilt.arm.spec import WEIGHTS_FILE, ArmSpec, read_spec
from preftilt.arm.weights import ArmWeights, load_weights
from preftilt.errors import BadInput
from preftilt.train.report import write_peft_config

BIAS = "base_model.model.{module}.lora_B.bias"
"""What peft calls the bias of B, which is scaled as B is."""


def fix_alpha(folder: Path, alpha: Sequence[float], out: Path) -> bool:
    """Write what the ARM in ``folder`` adds under ``alpha`` as a peft LoRA adapter.

    Its A is M(α) A, its B is B, with the bias B c(α). Returns whether there is such a bias (``uniarm`` but for
    ``scale``), which not every engine takes. Raises :class:`~preftilt.errors.BadInput`.
    """
    spec = read_spec(folder)
    shares = check_alpha(alpha, spec.objectives)
    weights = load_weights(spec, folder)
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty; choose another --out")
    down, biases = _fixed(spec, weights, shares)
    out.mkdir(parents=True, exist_ok=True)
    tensors = ArmWeights(down, weights.up, {}).named() | biases
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, str(out / WEIGHTS_FILE), metadata={"format": "pt"})
    write_peft_config(spec, out, bias=bool(biases))
    return bool(biases)


def _fixed(
    spec: ArmSpec, weights: ArmWeights, alpha: Sequence[float]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A′ by layer, and the biases by their names in the file."""
    mixed = mixing(spec, weights.mixing, torch.tensor([list(alpha)], dtype=torch.float32))
    down: dict[str, torch.Tensor] = {}
    biases: dict[str, torch.Tensor] = {}
    for index, name in enumerate(spec.modules):
        mix = mixed.layer(index)
        down[name] = mixed_down(weights.down[name], mix)
        if mix.shift is not None:
            biases[BIAS.format(module=name)] = weights.up[name] @ mix.shift[0]
    return down, biases
