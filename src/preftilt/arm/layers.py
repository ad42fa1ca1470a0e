"""The output of an adapter beside a linear layer, s · B(M(α) A x + c(α)), and how M and c depend on α.

Shapes: L adapted layers, B rows of a batch, k objectives, r features, d the size of an embedding. M and c
of all layers are computed at once. Sources: PBLoRA of PARM (Lin et al., ICML 2025);
the feature-wise modulation is our reconstruction of UniARM's MoSLoRA (arXiv 2602.09538).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from preftilt.arm.spec import ArmSpec


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
