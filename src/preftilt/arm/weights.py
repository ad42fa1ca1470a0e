"""An adapter's weights: their initial values, and the file they are stored in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from preftilt.arm.layers import mixing_shapes
from preftilt.arm.spec import WEIGHTS_FILE, ArmSpec
from preftilt.errors import BadInput

FIXED = frozenset({"embeddings"})
"""Weights that are not trained."""

_PEFT = "base_model.model.{module}.lora_{part}.weight"
_OWN = "preftilt.{name}"


@dataclass(frozen=True, slots=True)
class ArmWeights:
    """For every layer ``down`` [r, in] (A) and ``up`` [out, r] (B).

    ``mixing`` is what :func:`~preftilt.arm.layers.mixing_shapes` names.
    """

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    mixing: dict[str, Tensor]

    def named(self) -> dict[str, Tensor]:
        """All tensors by their names in the file; A and B have peft's names."""
        pairs = {"A": self.down, "B": self.up}
        factors = {
            _PEFT.format(module=module, part=part): tensor
            for part, by_module in pairs.items()
            for module, tensor in by_module.items()
        }
        return factors | {_OWN.format(name=name): tensor for name, tensor in self.mixing.items()}

    def trained(self) -> dict[str, Tensor]:
        """The trainable ones."""
        fixed = {_OWN.format(name=name) for name in FIXED}
        return {name: tensor for name, tensor in self.named().items() if name not in fixed}


def new_weights(
    spec: ArmSpec,
    sizes: Mapping[str, tuple[int, int]],
    generator: torch.Generator,
    embeddings: Tensor | None = None,
) -> ArmWeights:
    """Weights before training: ΔW = 0, since B is zero (Kaiming-uniform for A, W₁ and U; zero for G and H).

    sizes: (out, in) of every layer. embeddings [k, d]: those of the objectives' descriptions, for ``uniarm``.
    """
    down = {module: _kaiming((spec.rank, sizes[module][1]), generator) for module in spec.modules}
    up = {module: torch.zeros(sizes[module][0], spec.rank) for module in spec.modules}
    width = 0 if embeddings is None else embeddings.shape[1]
    mixing: dict[str, Tensor] = {}
    for name, shape in mixing_shapes(spec, width).items():
        if name in ("shared", "objectives"):
            mixing[name] = _kaiming(shape, generator)
        else:
            mixing[name] = torch.zeros(shape)
    if embeddings is not None:
        mixing["embeddings"] = embeddings.float()
    return ArmWeights(down, up, mixing)


def extended(
    weights: ArmWeights, spec: ArmSpec, generator: torch.Generator, embeddings: Tensor | None
) -> ArmWeights:
    """``weights`` with room for the objectives at the end of ``spec.objectives`` that they do not have yet.

    What was learned stays: for the old objectives the extended model is the old one. PARM gets new matrices U;
    UniARM takes ``embeddings`` [k, d] of all objectives and needs no weights of a new one's own.
    """
    mixing = dict(weights.mixing)
    if spec.method == "parm":
        old = mixing["objectives"]
        fresh = len(spec.objectives) - old.shape[1]
        shape = (old.shape[0], fresh, *old.shape[2:])
        mixing["objectives"] = torch.cat([old, _kaiming(shape, generator).to(old)], dim=1)
    elif embeddings is not None:
        old = mixing["embeddings"]
        mixing["embeddings"] = torch.cat([old, embeddings[len(old) :].to(old)])
    return ArmWeights(weights.down, weights.up, mixing)


def save_weights(weights: ArmWeights, folder: Path) -> None:
    """Write ``adapter_model.safetensors``."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.named().items()}
    save_file(tensors, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})


def load_weights(spec: ArmSpec, folder: Path) -> ArmWeights:
    """The weights that belong to ``spec``, in float32 on the CPU; raises :class:`~preftilt.errors.BadInput`."""
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as failure:
        raise BadInput(f"{path} cannot be read ({failure}); get the adapter again") from None
    keys = {name: _OWN.format(name=name) for name in mixing_shapes(spec, 0)}
    try:
        return ArmWeights(
            {module: tensors[_PEFT.format(module=module, part="A")] for module in spec.modules},
            {module: tensors[_PEFT.format(module=module, part="B")] for module in spec.modules},
            {name: tensors[key] for name, key in keys.items()},
        )
    except KeyError as failure:
        raise BadInput(f"{path} lacks {failure}, which its arm.json names; get it again") from None


def _kaiming(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform within ± 1/√n, n the last axis: Kaiming-uniform with a = √5, LoRA's initialisation."""
    bound = 1 / math.sqrt(max(1, shape[-1]))
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
