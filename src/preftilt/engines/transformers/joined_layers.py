"""Decoder layers of the Llama family with their linear layers and their arithmetic joined.

Of a small model's step a third goes into the Python and the hundreds of small tensors between its matmuls. A joined
layer computes q, k and v, and gate and up, by one matmul each, and norms and rotary embeddings in few passes. Like
everything else on the fast path, it is checked against the model's own forward at opening (:mod:`.probe`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from preftilt.engines.transformers.attention import shared_prefix_attention
from preftilt.engines.transformers.device import on_cpu
from preftilt.engines.transformers.linears import CpuLinear
from preftilt.engines.transformers.runner import ModelRunner

FAMILY = frozenset(
    f"transformers.models.{name}.modeling_{name}" for name in ("llama", "mistral", "qwen2")
)
"""Modules whose decoder layers are known: what a few random tokens cannot tell (windows, scaling by position) is not
left to the check."""

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def join_layers(runner: ModelRunner) -> bool:
    """Let the runner's decoder layers compute jointly; False, and nothing is changed, if they cannot.

    Layers stay as they are on a GPU, in models that see images (whose positions have three dimensions) and where reward
    models are attached, which add to the output of single linear layers.
    """
    if not on_cpu(runner.device) or runner.embedder is not None or runner.arms is not None:
        return False
    layers = list(getattr(runner.body, "layers", ()))
    if not layers or not all(_is_known(layer) for layer in layers):
        return False
    signs = _SignedSines()
    for layer in layers:
        layer.forward = JoinedLayer(layer, signs)
    return True


def separate_layers(runner: ModelRunner) -> None:
    """Undo :func:`join_layers`."""
    for layer in getattr(runner.body, "layers", ()):
        layer.__dict__.pop("forward", None)


def joined_linears(runner: ModelRunner) -> list[CpuLinear]:
    """The linear layers of the joined decoder layers."""
    joined = [layer.__dict__.get("forward") for layer in getattr(runner.body, "layers", ())]
    return [
        linear for layer in joined if isinstance(layer, JoinedLayer) for linear in layer.linears
    ]


class JoinedLayer:
    """A decoder layer: x + o(attention(qkv(norm x))), then x + down(silu(gate) · up)."""

    def __init__(self, layer: Any, signs: _SignedSines) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._attention = attention
        self._signs = signs
        self._head = attention.head_dim
        self._heads = attention.q_proj.out_features // self._head
        self._kv_heads = attention.k_proj.out_features // self._head
        self._norms = (_Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm))
        self._qkv = _joined([attention.q_proj, attention.k_proj, attention.v_proj])
        self._out = CpuLinear(attention.o_proj.weight, attention.o_proj.bias, (attention.o_proj,))
        self._gate_up = _joined([mlp.gate_proj, mlp.up_proj])
        self._down = CpuLinear(mlp.down_proj.weight, mlp.down_proj.bias, (mlp.down_proj,))

    @property
    def linears(self) -> tuple[CpuLinear, ...]:
        """Its linear layers."""
        return self._qkv, self._out, self._gate_up, self._down

    def __call__(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any
    ) -> Tensor:
        """[1, M, C] → [1, M, C]; ``position_embeddings``: cosines and sines [1, M, D]."""
        x = hidden_states[0]
        rotated, values = self._heads + self._kv_heads, self._heads + 2 * self._kv_heads
        heads = self._qkv(self._norms[0](x)).view(len(x), values, self._head)
        turning = heads[:, :rotated]
        sine = self._signs.of(position_embeddings[1])
        turned = torch.addcmul(
            turning * position_embeddings[0][0, :, None],
            turning.roll(self._head // 2, -1),
            sine,
        )
        out, _weights = shared_prefix_attention(
            self._attention,
            turned[:, : self._heads].transpose(0, 1)[None],
            turned[:, self._heads :].transpose(0, 1)[None],
            heads[:, rotated:].transpose(0, 1)[None],
            scaling=self._attention.scaling,
        )
        x = x + self._out(out.reshape(len(x), -1))
        gate, up = self._gate_up(self._norms[1](x)).chunk(2, dim=-1)
        return (x + self._down(nn.functional.silu(gate).mul_(up)))[None]


class _Norm:
    """Root-mean-square norm, in float32, as the family's own but in fewer passes."""

    def __init__(self, norm: Any) -> None:
        self._weight: Tensor = norm.weight
        self._epsilon = torch.tensor(norm.variance_epsilon, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()
        return torch.mul(x, scale).to(x.dtype).mul_(self._weight)


class _SignedSines:
    """The sines of a forward with the first half negated, so that rotating is x · cos + roll(x) · sin."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Tensor] | None = None

    def of(self, sines: Tensor) -> Tensor:
        """[1, M, D] → [M, 1, D]; computed once for all layers of a forward."""
        seen = self._seen
        if seen is None or seen[0] is not sines:
            first, second = sines[0, :, None].chunk(2, dim=-1)
            seen = self._seen = (sines, torch.cat((-first, second), dim=-1))
        return seen[1]


def _joined(modules: list[nn.Linear]) -> CpuLinear:
    """Linear layers of one input as one; their own weights become views of its weight."""
    weight = torch.cat([module.weight for module in modules])
    bias = None
    if modules[0].bias is not None:
        bias = torch.cat([module.bias for module in modules])
    for module, part in zip(modules, weight.split([len(m.weight) for m in modules]), strict=True):
        module.weight = nn.Parameter(part, requires_grad=False)
    return CpuLinear(weight, bias, tuple(modules))


def _is_known(layer: Any) -> bool:
    """Whether a decoder layer computes what :class:`JoinedLayer` does."""
    kind = type(layer)
    if kind.__module__ not in FAMILY or set(dict(layer.named_children())) != LAYER:
        return False
    config = layer.self_attn.config
    kinds = set(getattr(config, "layer_types", None) or {"full_attention"})
    windowed = getattr(config, "sliding_window", None) and kind.__module__.endswith("mistral")
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    return (
        set(dict(layer.self_attn.named_children())) == ATTENTION
        and set(dict(layer.mlp.named_children())) == MLP
        and config.hidden_act in ("silu", "swish")
        and len(linears) == 7
        and all(type(linear) is nn.Linear for linear in linears)
        and kinds == {"full_attention"}
        and not windowed
    )
