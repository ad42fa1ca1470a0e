"""Rewarded soups: k adapters of one base averaged into one (Ramé et al., 2023), for one forward a token; and a reward
model at one preference vector, as a plain LoRA adapter that any engine with peft's adapters can load.

A soup is the baseline beside reward models that decode. Its other half, MOD, mixes the distributions of the same k
policies (``--method dpo``) at decoding time and needs nothing made beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from preftilt.arm.adapter import ArmWeights, load_weights, mixed_down, mixing, save_weights
from preftilt.arm.spec import (
    SPEC_FILE,
    WEIGHTS_FILE,
    ArmSpec,
    Objective,
    check_alpha,
    read_spec,
    spec_json,
)
from preftilt.errors import BadInput
from preftilt.train.report import write_peft_config

Average = Literal["delta", "factors"]
"""What is averaged: the ΔW, as the method has it; or A and B by themselves, whose product is something else."""


def soup(
    folders: Sequence[Path], alpha: Sequence[float], out: Path, average: Average = "delta"
) -> ArmSpec:
    """Write the average of plain LoRA adapters (``genarm``, ``dpo``), weighted by ``alpha``, into ``out``.

    delta: ΔW = Σ αᵢ ΔWᵢ exactly, at the sum of the ranks. factors: A = Σ αᵢ Aᵢ, B = Σ αᵢ Bᵢ, at the same rank; it is
    what some code of the field does. Raises :class:`~preftilt.errors.BadInput` for adapters that cannot be averaged.
    """
    specs = [read_spec(folder) for folder in folders]
    _check_alike(folders, specs)
    shares = check_alpha(alpha, [spec.objectives[0] for spec in specs])
    loaded = [load_weights(spec, folder) for spec, folder in zip(specs, folders, strict=True)]
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty; choose another --out")
    average_of = _deltas if average == "delta" else _factors
    weights = average_of(specs, loaded, shares)
    description = ", ".join(
        f"{share:g} {spec.objectives[0].name}" for share, spec in zip(shares, specs, strict=True)
    )
    rank = len(next(iter(weights.down.values())))
    spec = replace(
        specs[0],
        rank=rank,
        objectives=(Objective("soup", description, specs[0].objectives[0].beta),),
    )
    out.mkdir(parents=True, exist_ok=True)
    save_weights(weights, out)
    write_peft_config(spec, out)
    (out / SPEC_FILE).write_text(spec_json(spec), "utf-8")
    return spec


def _check_alike(folders: Sequence[Path], specs: Sequence[ArmSpec]) -> None:
    if len(specs) < 2:
        raise BadInput("a soup needs two adapters or more")
    first = specs[0]
    for folder, spec in zip(folders, specs, strict=True):
        if spec.method not in ("genarm", "dpo"):
            raise BadInput(
                f"{folder} is of method {spec.method}, which takes a preference vector itself; only genarm and dpo"
                " adapters are averaged"
            )
        if (spec.fingerprint, spec.sample) != (first.fingerprint, first.sample):
            raise BadInput(f"{folder} and {folders[0]} belong to different bases")
        if (spec.method, spec.modules) != (first.method, first.modules):
            raise BadInput(
                f"{folder} and {folders[0]} differ in method or in the layers they adapt"
            )


def _deltas(
    specs: Sequence[ArmSpec], loaded: Sequence[ArmWeights], shares: Sequence[float]
) -> ArmWeights:
    """Σ αᵢ sᵢ Bᵢ Aᵢ = s [α₁ s₁/s B₁, …] [A₁; …]: the factors side by side."""
    scales = [
        share * spec.scale / specs[0].scale for share, spec in zip(shares, specs, strict=True)
    ]
    down = {
        name: torch.cat([weights.down[name] for weights in loaded]) for name in specs[0].modules
    }
    up = {
        name: torch.cat(
            [scale * weights.up[name] for scale, weights in zip(scales, loaded, strict=True)], dim=1
        )
        for name in specs[0].modules
    }
    return ArmWeights(down, up, {})


def _factors(
    specs: Sequence[ArmSpec], loaded: Sequence[ArmWeights], shares: Sequence[float]
) -> ArmWeights:
    if len({(spec.rank, spec.scale) for spec in specs}) > 1:
        raise BadInput("factors can only be averaged at one rank and scale; average the deltas")
    pairs = list(zip(shares, loaded, strict=True))
    return ArmWeights(
        {name: _sum([a * weights.down[name] for a, weights in pairs]) for name in specs[0].modules},
        {name: _sum([a * weights.up[name] for a, weights in pairs]) for name in specs[0].modules},
        {},
    )


def _sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum."""
    return torch.stack(list(tensors)).sum(dim=0)


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
