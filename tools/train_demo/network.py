"""A Llama as transformers defines it, written for fast training on a CPU.

The weights are kept in fp32 and used in bf16. Attention is spelled out because the fused kernel's
backward pass is slow on CPUs; torch.compile fuses the rest. ``state`` names the weights as
``LlamaForCausalLM`` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Size:
    """The dimensions of the model."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    inner: int = 640
    context: int = 2560
    theta: float = 10_000.0
    eps: float = 1e-6

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.hidden // self.heads


class Network(nn.Module):
    """Decoder-only transformer with rotary positions, RMSNorm, SwiGLU and tied embeddings."""

    def __init__(self, size: Size, longest: int) -> None:
        super().__init__()
        self.size = size
        h, inner = size.hidden, size.inner
        out = 0.02 / (2 * size.layers) ** 0.5

        def matrices(rows: int, columns: int, std: float) -> nn.ParameterList:
            made = [nn.Parameter(torch.randn(rows, columns) * std) for _ in range(size.layers)]
            return nn.ParameterList(made)

        def gains(count: int) -> nn.ParameterList:
            return nn.ParameterList([nn.Parameter(torch.ones(h)) for _ in range(count)])

        self.embedding = nn.Parameter(torch.randn(size.vocabulary, h) * 0.02)
        self.q, self.k, self.v = (matrices(h, h, 0.02) for _ in range(3))
        self.o = matrices(h, h, out)
        self.gate, self.up = (matrices(inner, h, 0.02) for _ in range(2))
        self.down = matrices(h, inner, out)
        self.before_attention, self.before_mlp = gains(size.layers), gains(size.layers)
        self.last = nn.Parameter(torch.ones(h))
        rates = size.theta ** (-torch.arange(0, size.head, 2).float() / size.head)
        angles = torch.outer(torch.arange(longest).float(), rates)
        self.register_buffer("cos", angles.cos().bfloat16(), persistent=False)
        self.register_buffer("sin", angles.sin().bfloat16(), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor, document: Tensor, weight: Tensor) -> Tensor:
        """The weighted mean of the next-token losses, all arguments [rows, length].

        ``document`` numbers the conversations packed into a row: a token sees its own only.
        ``weight`` is the weight of predicting the token at that place.
        """
        length = ids.shape[1]
        embedding = self.embedding.bfloat16()
        cos = self.get_buffer("cos")[positions][:, :, None]
        sin = self.get_buffer("sin")[positions][:, :, None]
        order = torch.arange(length)
        visible = (document[:, :, None] == document[:, None, :]) & (order[:, None] >= order)
        mask = torch.where(visible, 0.0, -1e4).bfloat16()[:, None]
        stream = F.embedding(ids, embedding)
        for layer in range(self.size.layers):
            normed = self._norm(stream, self.before_attention[layer])
            stream = stream + self._attend(layer, normed, cos, sin, mask)
            normed = self._norm(stream, self.before_mlp[layer])
            gated = F.silu(_linear(normed, self.gate[layer])) * _linear(normed, self.up[layer])
            stream = stream + _linear(gated, self.down[layer])
        logits = F.linear(self._norm(stream, self.last)[:, :-1], embedding).float()
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = weight[:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()

    def state(self) -> dict[str, Tensor]:
        """The weights under the names that ``LlamaForCausalLM`` gives them."""
        named = {
            "self_attn.q_proj": self.q,
            "self_attn.k_proj": self.k,
            "self_attn.v_proj": self.v,
            "self_attn.o_proj": self.o,
            "mlp.gate_proj": self.gate,
            "mlp.up_proj": self.up,
            "mlp.down_proj": self.down,
            "input_layernorm": self.before_attention,
            "post_attention_layernorm": self.before_mlp,
        }
        state = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.last}
        for name, weights in named.items():
            for layer, tensor in enumerate(weights):
                state[f"model.layers.{layer}.{name}.weight"] = tensor
        return {name: tensor.detach() for name, tensor in state.items()}

    def _attend(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, hidden = x.shape

        def split(matrix: Tensor) -> Tensor:
            return _linear(x, matrix).view(rows, length, self.size.heads, self.size.head)

        q = _turn(split(self.q[layer]), cos, sin).transpose(1, 2)
        k = _turn(split(self.k[layer]), cos, sin).transpose(1, 2)
        v = split(self.v[layer]).transpose(1, 2)
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.size.head**-0.5 + mask, -1)
        mixed = (weights @ v).transpose(1, 2).reshape(rows, length, hidden)
        return _linear(mixed, self.o[layer])

    def _norm(self, x: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(x, (self.size.hidden,), gain.bfloat16(), self.size.eps)


def _linear(x: Tensor, matrix: Tensor) -> Tensor:
    return F.linear(x, matrix.bfloat16())


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
