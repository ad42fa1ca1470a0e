"""An adapter: its output beside a linear layer, s · B(M(α) A x + c(α)), and how M and c depend on α; its weights'
initial values, and the file they are stored in.

Shapes: L adapted layers, B rows of a batch, k objectives, r features, d the size of an embedding. M and c
of all layers are computed at once. Sources: PBLoRA of PARM (Lin et al., ICML 2025);
the feature-wise modulation is our reconstruction of UniARM's MoSLoRA (arXiv 2602.09538).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from preftilt.arm.spec import WEIGHTS_FILE, ArmSpec
from preftilt.errors import BadInput


@dataclass(frozen=True, slots=True)
class Mixing:
    """M and c of every layer and row; None is the identity (M) or zero (c).

    matrix [L, B, r, r] or scale [L, B, r] (a diagonal matrix); shift [L, B, r]. B is 1 where all rows have one α.
    """

    matrix: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None

    def layer(self, index: int) -> Mixing:
        """M and c of one layer: the same shapes without L."""
        parts = (self.matrix, self.scale, self.shift)
        return Mixing(*(None if part is None else part[index] for part in parts))


def mixing(spec: ArmSpec, weights: Mapping[str, Tensor], alphas: Tensor) -> Mixing:
    """M(α) and c(α) for ``alphas`` [B, k]; ``weights`` are those named in :func:`mixing_shapes`."""
    if spec.method in ("genarm", "dpo"):
        return Mixing()
    if spec.alpha_in == "loss":
        alphas = torch.full_like(alphas, 1 / alphas.shape[1])
    if spec.method == "parm":
        return _bilinear(weights["shared"], weights["objectives"], alphas)
    return _modulation(spec, weights, alphas @ weights["embeddings"])


def _bilinear(shared: Tensor, objectives: Tensor, alphas: Tensor) -> Mixing:
    """PARM: blockdiag(W₁, W₂(α)), W₂(α) = Σ αᵢ Uᵢ; ``shared`` [L, r₁, r₁], ``objectives`` [L, k, r₂, r₂]."""
    layers, rows, first = len(shared), len(alphas), shared.shape[1]
    second = torch.einsum("bk,lkij->lbij", alphas, objectives)
    corner = shared[:, None].expand(layers, rows, first, first)
    above = torch.cat([corner, second.new_zeros(layers, rows, first, second.shape[-1])], dim=-1)
    below = torch.cat([second.new_zeros(layers, rows, second.shape[-1], first), second], dim=-1)
    return Mixing(matrix=torch.cat([above, below], dim=-2))


def _modulation(spec: ArmSpec, weights: Mapping[str, Tensor], mixed: Tensor) -> Mixing:
    """UniARM: γ(e) = 1 + G e (or I + reshape(G e)), b(e) = H e; ``mixed`` is e(α) [B, d]."""
    gain = torch.einsum("bd,lrd->lbr", mixed, weights["gain"])
    if spec.modulation == "scale":
        return Mixing(scale=1 + gain)
    shift = torch.einsum("bd,lrd->lbr", mixed, weights["shift"])
    if spec.modulation == "affine":
        return Mixing(scale=1 + gain, shift=shift)
    eye = torch.eye(spec.rank, dtype=gain.dtype, device=gain.device)
    return Mixing(matrix=eye + gain.unflatten(-1, (spec.rank, spec.rank)), shift=shift)


def mixing_shapes(spec: ArmSpec, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights behind M and c; ``width`` is d. ``embeddings`` [k, d] is not trained."""
    layers, k, second = len(spec.modules), len(spec.objectives), spec.conditioned_rank
    if spec.method == "parm":
        first = spec.rank - second
        return {"shared": (layers, first, first), "objectives": (layers, k, second, second)}
    if spec.method == "uniarm":
        gains = spec.rank**2 if spec.modulation == "full" else spec.rank
        shift = {} if spec.modulation == "scale" else {"shift": (layers, spec.rank, width)}
        return {"embeddings": (k, width), "gain": (layers, gains, width), **shift}
    return {}


def adapter_output(
    x: Tensor, down: Tensor, up: Tensor, mix: Mixing, scale: float, dropout: float = 0.0
) -> Tensor:
    """s · B(M A x + c) for ``x`` [B, …, in]: [B, …, out]; never an out × in matrix.

    down [r, in] is A, up [out, r] is B; ``mix`` is one layer's; ``dropout`` is the share of x that is left out.
    """
    x = x.to(down.dtype)
    features = linear(drop(x, dropout) if dropout else x, down).reshape(len(x), -1, len(down))
    if mix.scale is not None:
        features = features * mix.scale[:, None]
    if mix.matrix is not None:
        matrix = mix.matrix[0] if len(mix.matrix) == 1 else mix.matrix
        features = features @ matrix.transpose(-1, -2)
    if mix.shift is not None:
        features = features + mix.shift[:, None]
    return linear(scale * features, up).reshape(*x.shape[:-1], len(up))


def mixed_down(down: Tensor, mix: Mixing) -> Tensor:
    """M A [r, in], for the single row that ``mix`` (one layer's) has."""
    if mix.scale is not None:
        return mix.scale[0][:, None] * down
    return down if mix.matrix is None else mix.matrix[0] @ down


def merged_delta(
    down: Tensor, up: Tensor, mix: Mixing, scale: float
) -> tuple[Tensor, Tensor | None]:
    """ΔW = s B M A [out, in] and Δb = s B c [out] or None, for the single row that ``mix`` (one layer's) has."""
    bias = None if mix.shift is None else scale * (up @ mix.shift[0])
    return scale * (up @ mixed_down(down, mix)), bias


FIXED = frozenset({"embeddings"})
"""Weights that are not trained."""

_PEFT = "base_model.model.{module}.lora_{part}.weight"
_OWN = "preftilt.{name}"


@dataclass(frozen=True, slots=True)
class ArmWeights:
    """For every layer ``down`` [r, in] (A) and ``up`` [out, r] (B).

    ``mixing`` is what :func:`~preftilt.arm.adapter.mixing_shapes` names.
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
